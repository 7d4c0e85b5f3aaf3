"""A schema that changes under load, as in a rollout: first the newer schema, then the code."""

from __future__ import annotations

import asyncio
import random
import time

from tests.faults.faults import DATABASE_BACK_SECONDS
from tests.faults.interference import session
from tests.faults.lock_faults import IMPATIENT
from tests.faults.registry import Measurement, fault
from tests.faults.services import migrate
from tests.faults.setting import in_thread
from tests.faults.stage import Stage

COLUMN_OF = {"orders": "user_id", "outbox": "event_type", "dead_letters": "reason"}
LONGEST_REPORT_SECONDS = 1.0
LOCK_WAIT_SECONDS = 120


@fault("migrate-under-load", options=IMPATIENT)
async def migrate_under_load(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Each table gets and loses a column and an index; `orders migrate` runs meanwhile."""
    await asyncio.gather(
        _alter_all(stage, rng),
        asyncio.to_thread(migrate, stage.services.environment, stage.options.folder),
    )
    seconds = await stage.first_order_after(time.time())
    return [Measurement("first order after the schema was altered", seconds, DATABASE_BACK_SECONDS)]


async def _alter_all(stage: Stage, rng: random.Random) -> None:
    for table in rng.sample(sorted(COLUMN_OF), len(COLUMN_OF)):
        more = "ADD COLUMN faults_note VARCHAR(20) NULL"
        await _alter(stage, table, f"{more}, ADD INDEX ix_faults ({COLUMN_OF[table]})", rng)
        await _alter(stage, table, "DROP INDEX ix_faults, DROP COLUMN faults_note", rng)


async def _alter(stage: Stage, table: str, change: str, rng: random.Random) -> None:
    """While somebody reads: it waits for them, and whoever writes waits behind it."""
    async with in_thread(session(stage)) as report, in_thread(session(stage)) as cursor:
        await asyncio.to_thread(report.execute, "START TRANSACTION")
        await asyncio.to_thread(report.execute, f"SELECT COUNT(*) FROM {table}")
        await asyncio.to_thread(
            cursor.execute, f"SET SESSION lock_wait_timeout = {LOCK_WAIT_SECONDS}"
        )
        altering = asyncio.create_task(
            asyncio.to_thread(cursor.execute, f"ALTER TABLE {table} {change}")
        )
        await asyncio.sleep(rng.uniform(0, LONGEST_REPORT_SECONDS))
        await asyncio.to_thread(report.execute, "ROLLBACK")
        await altering
