"""The database as the service needs it before it may take in anything: there, and of our schema."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy.exc import SQLAlchemyError

from db import dead_letters, orders, outbox, schema
from db.engine import Database
from service.errors import SchemaBehindError
from service.explain import explain_database
from service.retry import delay_after
from service.settings import Settings
from service.telemetry import Action, log

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
TRIAL_EVENT = {
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


async def migrate(database: Database) -> None:
    """Bring the schema up to date; needs a user who may create and alter tables."""
    async with database.engine.connect() as connection:
        await schema.upgrade(connection)


async def check_schema(database: Database) -> None:
    """Check that the schema is the one this code was written for.

    Raises:
        SchemaBehindError: it is behind or was never made; the message says what to run.
        sqlalchemy.exc.SQLAlchemyError, TimeoutError: the database is away.
    """
    async with database.reading() as connection:
        found = await schema.current_version(connection)
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
    """Whether the database takes what intake writes, just now: tried, and rolled back."""
    try:
        await _try_writing(database)
    except (SQLAlchemyError, TimeoutError, OSError):
        return False
    return True


async def _try_writing(database: Database) -> None:
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
            await _try_writing(database)
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
