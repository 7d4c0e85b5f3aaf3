"""The statements that run all the time use the indexes made for them, whatever the statistics."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import Executable, text
from sqlalchemy.dialects import mysql

from db import outbox
from db.engine import Database
from tests.integration.test_relay import event, put

WAITING, PUBLISHED = 3_000, 6_000


@pytest.fixture
async def stale(database: Database) -> Database:
    """An outbox that has grown since its statistics were taken, when it was empty."""
    async with database.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE outbox STATS_AUTO_RECALC = 0"))
        await connection.execute(text("ANALYZE TABLE outbox"))
    await put(database, *(event() for _ in range(PUBLISHED)))
    async with database.engine.begin() as connection:
        await connection.execute(text("UPDATE outbox SET published_at = UTC_TIMESTAMP(6)"))
    await put(database, *(event() for _ in range(WAITING)))
    return database


async def plan_of(database: Database, statement: Executable, **values: Any) -> dict[str, str]:
    """Which index each table of the statement is read by."""
    compiled = statement.params(**values).compile(  # type: ignore[attr-defined]
        dialect=mysql.dialect(), compile_kwargs={"literal_binds": True}
    )
    async with database.reading() as connection:
        plan = await connection.exec_driver_sql(
            f"EXPLAIN FORMAT=TRADITIONAL {str(compiled).replace('%', '%%')}"
        )
        return {row["table"]: row["key"] for row in plan.mappings()}


async def test_the_claim_reads_by_its_two_indexes(stale: Database) -> None:
    plan = await plan_of(stale, outbox.CLAIMABLE, most=200)

    assert plan["outbox"] == "ix_outbox_waiting"
    assert plan["outbox_1"] == "ix_outbox_aggregate"


async def test_the_claim_reads_a_few_rows_for_each_that_it_gets(stale: Database) -> None:
    async with stale.trial() as connection:
        before = await rows_read(connection)
        assert len(await outbox.lock_claimable(connection, 200)) == 200
        read = await rows_read(connection) - before

    assert read <= 200 * 6


async def test_the_claim_does_not_wait_for_what_another_one_holds(stale: Database) -> None:
    async with stale.trial() as one, stale.trial() as other:
        first = await outbox.lock_claimable(one, 100)
        started = time.monotonic()
        second = await outbox.lock_claimable(other, 100)

        assert time.monotonic() - started < 5, "it waited for a lock"
        assert len(first) == len(second) == 100
        assert not {each.id for each in first} & {each.id for each in second}


async def rows_read(connection: Any) -> int:
    status = await connection.execute(
        text("SHOW SESSION STATUS WHERE Variable_name LIKE 'Handler_read%'")
    )
    return sum(int(value) for _, value in status)
