"""The schema's version: what is in the database, what this code needs, and getting there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from enum import Enum, auto
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Inspector, func, inspect, select, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from db.failures import error_number

# Not Alembic's usual name: another application's migrations may share the database.
VERSION_TABLE = "order_service_version"
EARLIER_VERSION_TABLE = "alembic_version"
LOCK = "order-service-migration"
LOCK_SECONDS = 60
NO_SUCH_TABLE = 1146
MIGRATIONS = Path(__file__).parent / "migrations"

# The tables as the first migration made them. Later ones only add, so that a table of this name
# without one of these columns is another application's.
FIRST_COLUMNS: Mapping[str, str] = {
    "orders": "order_id user_id total_amount status idempotency_key fingerprint items created_at "
    "updated_at",
    "outbox": "id event_id event_type aggregate_type aggregate_id exchange routing_key payload "
    "content_type correlation_id headers attempts available_at lease_token lease_until last_error "
    "created_at published_at parked_at",
    "dead_letters": "dead_letter_id message_digest occurrence order_id reason details queue body "
    "headers properties received_at redriven_at",
}


class ForeignTablesError(Exception):
    """Tables of these names are there, and are another application's."""

    def __init__(self, tables: list[str]) -> None:
        self.tables = tables
        super().__init__(
            f"tables of other applications have the names of this service's ({', '.join(tables)}): "
            "give it a database of its own (DB_NAME)"
        )


def needed_version() -> str:
    """The revision this code was written for."""
    version = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    if version is None:
        raise LookupError(f"no migrations in {MIGRATIONS}")
    return version


async def current_version(connection: AsyncConnection) -> str | None:
    """The revision in the database; None where it was never migrated.

    Raises:
        ForeignTablesError: the names are taken.
    """
    return await connection.run_sync(_current_version)


def is_known(version: str) -> bool:
    """Whether this code has a migration of that name; a newer code's it has not."""
    return version in {
        script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()
    }


class Owner(Enum):
    """Whose tables a database has. NEWER: ours, of a version that this code does not know."""

    OURS = auto()
    NEWER = auto()
    OTHER = auto()


async def owner(connection: AsyncConnection) -> Owner:
    """Whose database this is; one without tables is ours."""
    tables = set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))
    try:
        version = await current_version(connection)
    except ForeignTablesError:
        return Owner.OTHER
    if version is None:
        return Owner.OTHER if tables - {VERSION_TABLE, EARLIER_VERSION_TABLE} else Owner.OURS
    if not tables.issuperset(FIRST_COLUMNS):
        return Owner.OTHER
    return Owner.OURS if is_known(version) else Owner.NEWER


async def upgrade(
    connection: AsyncConnection, waiting_for: Callable[[str], None] = lambda _: None
) -> None:
    """Bring the schema to `needed_version()`, one at a time per server, and commit.

    Committed before the next one may begin: it would not see the version, and do it again.

    Args:
        waiting_for: called with what it waits for from now on.

    Raises:
        TimeoutError: another migration has been running for longer than `LOCK_SECONDS`.
        ForeignTablesError: the names are taken; nothing was changed.
    """
    if connection.dialect.name == "sqlite":  # it has locked already
        await _upgrade_and_commit(connection, waiting_for)
        return
    # DDL commits by itself, so two at once would both create.
    waiting_for("another migration to end")
    if await connection.scalar(select(func.get_lock(LOCK, LOCK_SECONDS))) != 1:
        raise TimeoutError("another migration is running")
    try:
        # Whoever waits for a table that a transaction holds is waited for by all others.
        await connection.execute(text(f"SET SESSION lock_wait_timeout = {LOCK_SECONDS}"))
        await _upgrade_and_commit(connection, waiting_for)
    finally:
        with contextlib.suppress(SQLAlchemyError):  # the link is gone, and the lock with it
            await connection.execute(select(func.release_lock(LOCK)))


async def _upgrade_and_commit(
    connection: AsyncConnection, waiting_for: Callable[[str], None]
) -> None:
    waiting_for("the tables to be changed")
    await connection.run_sync(_upgrade)
    await connection.commit()


def _upgrade(connection: Connection) -> None:
    _current_version(connection)  # raises where the names are taken
    config = Config()
    # Alembic's configuration takes a % for the start of a variable.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _current_version(connection: Connection) -> str | None:
    inspector = inspect(connection)
    there = {*inspector.get_table_names(), *inspector.get_view_names()}
    found = None if VERSION_TABLE in there else _version_by_shape(inspector, there)
    if found == needed_version() or (VERSION_TABLE not in there and _is_absent(connection)):
        return found
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    heads = context.get_current_heads()
    return max(heads) if heads else _version_by_shape(inspector, there)


def _is_absent(connection: Connection) -> bool:
    """Whether there is no version table. A user without a right to it does not see it listed.

    Raises:
        sqlalchemy.exc.DBAPIError: the user may not read it.
    """
    try:
        connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608 - ours
    except DBAPIError as error:
        if error_number(error) == NO_SUCH_TABLE or connection.dialect.name == "sqlite":
            return True
        raise
    return False


def _version_by_shape(inspector: Inspector, there: set[str]) -> str | None:
    """The version of tables from before the version table.

    Alembic's own table is not asked: what it says may be another application's.
    """
    foreign = [
        table
        for table, columns in FIRST_COLUMNS.items()
        if table in there
        and not {column["name"] for column in inspector.get_columns(table)} >= {*columns.split()}
    ]
    if foreign:
        raise ForeignTablesError(foreign)
    if not there.issuperset(FIRST_COLUMNS):
        return None
    if "attempts" in {each["name"] for each in inspector.get_columns("dead_letters")}:
        return "0004"
    marks = {index["name"] for index in inspector.get_indexes("dead_letters")}
    if "ix_dead_letters_unacknowledged" in marks:
        return "0003"
    indexes = {index["name"]: index["column_names"] for index in inspector.get_indexes("outbox")}
    return "0002" if indexes.get("ix_outbox_aggregate", [""])[0] == "published_at" else "0001"
