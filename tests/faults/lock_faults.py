"""Others in the same tables: locks of rows, of gaps and of whole tables, and deadlocks.

The service's transactions have a short deadline here, so that holds of seconds are on either side.
"""

from __future__ import annotations

import asyncio
import random
import time

import pymysql
from pymysql.cursors import Cursor

from tests.faults.faults import DATABASE_BACK_SECONDS
from tests.faults.interference import session
from tests.faults.registry import Measurement, fault
from tests.faults.setting import StageOptions
from tests.faults.stage import Stage
from tests.patience import PATIENCE_SECONDS

IMPATIENT = StageOptions(environment={"DB_TIMEOUT_SECONDS": "2"})
HOLDS = (0.5, 1.5, 4.0)
LOCKS = (
    "LOCK TABLES orders WRITE, outbox WRITE",
    "LOCK TABLES orders READ",
    "LOCK TABLES outbox READ",
)
# All rows that wait, and the gap in which each new row will be; all orders and the gaps of theirs.
RANGES = (
    "SELECT id FROM outbox WHERE published_at IS NULL FOR UPDATE",
    "SELECT id FROM outbox WHERE id > (SELECT MAX(id) FROM outbox) FOR UPDATE",
    "SELECT order_id FROM orders WHERE order_id > 'M' FOR UPDATE",
    "SELECT order_id FROM orders FOR UPDATE",
)
DEADLOCKS = 5
DEADLOCK = 1213
# The server rolls back whoever has written less: that must not be us.
WEIGHT = 2000
LOCK_WAIT_SECONDS = 10
POLL_SECONDS = 0.01


@fault("lock-tables", options=IMPATIENT)
async def lock_tables(stage: Stage, rng: random.Random) -> list[Measurement]:
    """A backup, say, has the tables for itself."""
    await asyncio.to_thread(_hold, stage, rng.choice(LOCKS), rng.choice(HOLDS))
    return [await _back(stage, "first order after tables were locked")]


@fault("lock-ranges", options=IMPATIENT)
async def lock_ranges(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Somebody's transaction has rows, and the gaps in which the next ones will be."""
    for statement in rng.sample(RANGES, 2):
        await asyncio.to_thread(_hold, stage, statement, rng.choice(HOLDS))
    return [await _back(stage, "first order after ranges were locked")]


def _hold(stage: Stage, statement: str, seconds: float) -> None:
    with session(stage) as cursor:
        cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}")
        cursor.execute("START TRANSACTION")
        _tried(cursor, statement)
        time.sleep(seconds)


@fault("deadlocks", options=IMPATIENT)
async def deadlocks(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Somebody takes the same locks in the opposite order, and is not the one who has to yield."""
    before, tries = _deadlocks_so_far(stage), 0
    async with asyncio.timeout(PATIENCE_SECONDS):
        # Not each try meets a transaction of the service's.
        while tries < DEADLOCKS or _deadlocks_so_far(stage) == before:
            await asyncio.to_thread(_deadlock, stage)
            tries += 1
    return [await _back(stage, "first order after deadlocks")]


def _deadlock(stage: Stage) -> None:
    """Whoever stores orders now has theirs, and waits for the outbox; then we want the orders."""
    with session(stage) as cursor:
        cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}")
        cursor.execute("CREATE TABLE IF NOT EXISTS faults_weight (n INT)")
        cursor.execute("START TRANSACTION")
        weight = ", ".join(["(1)"] * WEIGHT)
        cursor.execute(f"INSERT INTO faults_weight VALUES {weight}")
        if _tried(cursor, "SELECT id FROM outbox ORDER BY id DESC LIMIT 1 FOR UPDATE"):
            _wait_for_a_lock_wait(stage)
            _tried(cursor, "SELECT order_id FROM orders FOR UPDATE")


def _wait_for_a_lock_wait(stage: Stage) -> None:
    until = time.monotonic() + LOCK_WAIT_SECONDS
    with session(stage) as cursor:
        while time.monotonic() < until:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'")
            ((_, waits),) = cursor.fetchall()
            if int(waits):
                return
            time.sleep(POLL_SECONDS)


def _deadlocks_so_far(stage: Stage) -> int:
    said = stage.database.execute(
        "SELECT count FROM information_schema.innodb_metrics WHERE name = 'lock_deadlocks'"
    )
    return int(said)


def _tried(cursor: Cursor, statement: str) -> bool:
    """Whether it was done; the service's locks may be in the way, and one of us has to yield."""
    try:
        cursor.execute(statement)
    except pymysql.OperationalError:
        return False
    return True


async def _back(stage: Stage, what: str) -> Measurement:
    seconds = await stage.first_order_after(time.time())
    return Measurement(what, seconds, DATABASE_BACK_SECONDS)
