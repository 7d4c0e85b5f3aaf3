"""The schema's version: what is in the database, what this code needs, and getting there."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

LOCK = "order-service-migration"
LOCK_SECONDS = 60
MIGRATIONS = Path(__file__).parent / "migrations"


def needed_version() -> str:
    """The revision this code was written for."""
    version = ScriptDirectory(str(MIGRATIONS)).get_current_head()
    if version is None:
        raise LookupError(f"no migrations in {MIGRATIONS}")
    return version


async def current_version(connection: AsyncConnection) -> str | None:
    """The revision in the database; None where it was never migrated."""
    return await connection.run_sync(
        lambda sync: MigrationContext.configure(sync).get_current_revision()
    )


def is_known(version: str) -> bool:
    """Whether this code has a migration of that name; a newer code's it has not."""
    return version in {
        script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions()
    }


async def upgrade(connection: AsyncConnection) -> None:
    """Bring the schema to `needed_version()`, one at a time per server, and commit.

    Committed before the next one may begin: it would not see the version, and do it again.

    Raises:
        TimeoutError: another migration has been running for longer than `LOCK_SECONDS`.
    """
    # DDL commits by itself on MySQL, so two at once would both create; SQLite has locked already.
    locking = connection.dialect.name != "sqlite"
    if locking:
        got = await connection.scalar(select(func.get_lock(LOCK, LOCK_SECONDS)))
        if got != 1:
            raise TimeoutError("another migration is running")
    try:
        await connection.run_sync(_upgrade)
        await connection.commit()
    finally:
        if locking:
            await connection.execute(select(func.release_lock(LOCK)))


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
