"""The database as the service needs it before it may take in anything: there, and of our schema."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from db import dead_letters, orders, outbox, schema
from db.engine import Database
from db.inspection import read_only_sqlite
from service.backoff import delay_after
from service.config.settings import Settings
from service.domain.errors import SchemaBehindError, UnusableFileError
from service.driver_errors import explain_database
from service.observability import Action, log

LONGEST_DELAY_SECONDS = 3.0
TRIAL_TIME = datetime(2000, 1, 1, tzinfo=UTC)
# One row for each table that intake writes. Never committed.
TRIAL_ORDER = {
    "order_id": "trial of writing",
    "user_id": "",
    "total_amount": Decimal(1),
    "status": "",
    "idempotency_key": "trial of writing",
    "fingerprint": b"",
    "items": [],
    "created_at": TRIAL_TIME,
    "updated_at": TRIAL_TIME,
}
TRIAL_EVENT: dict[str, Any] = {
    "event_id": "trial",
    "event_type": "Trial",
    "aggregate_type": "trial",
    "aggregate_id": "trial",
    "exchange": "",
    "routing_key": "",
    "payload": b"",
    "headers": {},
}
TRIAL_DEAD_LETTER = {
    "dead_letter_id": "trial",
    "message_digest": b"",
    "occurrence": 0,
    "reason": "",
    "details": "",
    "queue": "",
    "body": b"",
    "headers": {},
    "properties": {},
    "received_at": TRIAL_TIME,
}


def open_database(settings: Settings) -> Database:
    return Database(
        settings.database,
        tls=settings.database_tls(),
        pool_size=settings.db_pool_size,
        connect_timeout_seconds=settings.db_connect_timeout_seconds,
        timeout_seconds=settings.db_timeout_seconds,
    )


async def migrate(
    database: Database,
    *,
    seconds: float = 3600,
    waiting_for: Callable[[str], None] = lambda _: None,
) -> None:
    """Bring the schema up to date; needs a user who may create and alter tables.

    Args:
        seconds: deadline of the whole; connecting has that of a transaction.
        waiting_for: called with what it waits for from now on.

    Raises:
        UnusableFileError: an SQLite file that is no file, is damaged, or is another program's.
        db.schema.ForeignTablesError: tables of other applications have the names of ours.
        sqlalchemy.exc.SQLAlchemyError, TimeoutError, OSError: the database is away, or too slow.
    """
    name = database.engine.url.database if database.is_file else None
    path = Path(name) if name and name != ":memory:" else None
    if path is not None and await _owner(path) is schema.Owner.NEWER:
        return
    waiting_for("an answer to the login")
    async with database.migrating(seconds) as connection:
        await schema.upgrade(connection, waiting_for)


async def _owner(path: Path) -> schema.Owner:
    """Whose file it is, or will be; read only, so that another program's is left as it was."""
    if not _has_content(path):
        return schema.Owner.OURS
    engine = read_only_sqlite(path)
    try:
        async with engine.connect() as connection:
            if await connection.scalar(text("PRAGMA quick_check(1)")) != "ok":
                raise UnusableFileError("it is damaged: bring a backup back, or move it away")
            owner = await schema.owner(connection)
    finally:
        await engine.dispose()
    if owner is schema.Owner.OTHER:
        raise UnusableFileError("it is another program's database: name another file")
    return owner


def _has_content(path: Path) -> bool:
    if path.is_dir():
        raise UnusableFileError("it is a folder: name a file in it")
    if path.exists() and not path.is_file():
        raise UnusableFileError("it is no ordinary file: name another one")
    if not path.absolute().parent.is_dir():
        raise UnusableFileError("its folder is not there: make it, or name another file")
    return path.exists() and path.stat().st_size > 0


async def check_schema(database: Database) -> None:
    """Check that the schema is the one this code was written for.

    Raises:
        SchemaBehindError: it is behind or was never made; the message says what to run.
        sqlalchemy.exc.SQLAlchemyError, TimeoutError: the database is away.
    """
    try:
        async with database.reading() as connection:
            found = await schema.current_version(connection)
    except schema.ForeignTablesError as error:
        raise SchemaBehindError(f"in the database {error}") from error
    needed = schema.needed_version()
    # A newer schema is fine: migrations leave what older code uses, so that versions can overlap in
    # a rollout.
    if found == needed or (found is not None and not schema.is_known(found)):
        return
    state = "has no tables of this service" if found is None else f"is at version {found}"
    raise SchemaBehindError(
        f"the database {state}, and this code needs version {needed}: run `orders migrate`"
    )


async def takes_writes(database: Database) -> bool:
    """Whether the database takes what intake writes, just now, and commits.

    Rows of every table are tried and rolled back. What is committed leaves nothing behind: an event
    that is deleted in the transaction that stores it.
    """
    try:
        await try_writing(database)
        async with database.transaction() as connection:
            await outbox.add_events(connection, [TRIAL_EVENT])
            await outbox.delete_trial(connection, TRIAL_EVENT["event_id"])
    except (SQLAlchemyError, TimeoutError, OSError):
        return False
    return True


async def largest_packet(database: Database) -> int:
    """The size in bytes of the largest statement that the server takes. It cuts the link over more.

    Raises:
        sqlalchemy.exc.SQLAlchemyError, TimeoutError, OSError: the database is away, or a file.
    """
    async with database.reading() as connection:
        return int(await connection.scalar(text("SELECT @@SESSION.max_allowed_packet")) or 0)


async def try_writing(database: Database) -> None:
    """Write what intake writes, and take it back.

    Raises:
        sqlalchemy.exc.SQLAlchemyError, TimeoutError, OSError: the database takes it not.
    """
    async with database.trial() as connection:
        await orders.insert_orders(connection, [TRIAL_ORDER])
        await outbox.add_events(connection, [TRIAL_EVENT])
        await dead_letters.insert_dead_letters(connection, [TRIAL_DEAD_LETTER])


async def wait_for_database(database: Database, name: str) -> None:
    """Return once the database takes writes and its schema is right, however long that takes.

    Reading is not enough: a database that is read-only or full would fail every message, and each
    time that it came back from here would count towards its delivery limit.

    Raises:
        SchemaBehindError: it answers, and its schema is behind.
    """
    failures = 0
    while True:
        try:
            await check_schema(database)
            await try_writing(database)
        except (SQLAlchemyError, TimeoutError, OSError) as error:
            failures += 1
            delay = delay_after(
                failures, first_seconds=0.5, longest_seconds=LONGEST_DELAY_SECONDS
            ).total_seconds()
            log(
                Action.DATABASE_WAITING,
                logging.WARNING,
                database=name,
                why=explain_database(error),
                retry_in_seconds=delay,
            )
            await asyncio.sleep(delay)
        else:
            if failures:
                log(Action.DATABASE_READY, database=name)
            return
