"""The statements that run all the time use the indexes made for them, whatever the statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from db import dead_letters, orders, outbox
from db.engine import Database
from service.outbox.envelope import new_id
from tests.factories import claimed_event
from tests.integration.steps import insert_order
from tests.integration.test_relay import event as an_event
from tests.integration.test_relay import put

WAITING, PUBLISHED = 3_000, 6_000


@pytest.fixture
async def stale(database: Database) -> Database:
    """An outbox that has grown since its statistics were taken, when it was empty."""
    async with database.engine.begin() as connection:
        await connection.execute(text("ALTER TABLE outbox STATS_AUTO_RECALC = 0"))
        await connection.execute(text("ANALYZE TABLE outbox"))
    await put(database, *(an_event() for _ in range(PUBLISHED)))
    async with database.engine.begin() as connection:
        await connection.execute(text("UPDATE outbox SET published_at = UTC_TIMESTAMP(6)"))
    await put(database, *(an_event() for _ in range(WAITING)))
    return database


Ask = Callable[[AsyncConnection], Awaitable[object]]


async def plan_of(database: Database, ask: Ask) -> list[tuple[str, str | None]]:
    """By which index the server means to read each table of the statements that `ask` makes."""
    asked: list[tuple[str, Any]] = []

    def remember(*arguments: Any) -> None:
        asked.append((arguments[2], arguments[3]))

    engine = database.engine.sync_engine
    async with database.trial() as connection:
        event.listen(engine, "before_cursor_execute", remember)
        await ask(connection)
        event.remove(engine, "before_cursor_execute", remember)
        assert asked
        rows: list[tuple[str | None, str | None]] = []
        for statement, parameters in asked:
            plan = await connection.exec_driver_sql(
                f"EXPLAIN FORMAT=TRADITIONAL {statement}", parameters
            )
            rows += [(row["table"], row["key"]) for row in plan.mappings()]
        return [(table, key) for table, key in rows if table and table[0] != "<"]


async def test_the_claim_reads_by_its_two_indexes(stale: Database) -> None:
    plan = await plan_of(stale, lambda link: outbox.lock_claimable(link, 200, lease_seconds=60))

    assert plan == [("outbox", "ix_outbox_waiting"), ("outbox_1", "ix_outbox_aggregate")]


async def test_neighbours_are_found_by_their_indexes(stale: Database) -> None:
    plan = await plan_of(stale, lambda link: outbox.find_neighbours(link, SOME))

    assert plan[0] == ("outbox", "uq_outbox_event_id")
    assert {index for _, index in plan[1:]} == {"ix_outbox_aggregate"}


async def test_followers_are_read_in_the_order_of_their_index(stale: Database) -> None:
    heads = [claimed_event(aggregate_id=aggregate_id) for aggregate_id in ("a", "b")]

    async def follow(link: AsyncConnection) -> None:
        await outbox.lock_followers(link, heads, 200, lease_seconds=60)

    assert await plan_of(stale, follow) == [("outbox", "ix_outbox_aggregate")]


SOME = [new_id() for _ in range(200)]
HOLDER: dict[str, Any] = {"token": new_id()}


@pytest.mark.parametrize(
    "write",
    [
        lambda link: outbox.lease(link, SOME, seconds=60, **HOLDER),
        lambda link: outbox.complete(link, SOME, **HOLDER),
        lambda link: outbox.release(link, SOME, **HOLDER),
        lambda link: outbox.retry_later(link, SOME[0], delay=timedelta(0), error="", **HOLDER),
        lambda link: outbox.park(link, SOME[0], error="", **HOLDER),
    ],
    ids=["lease", "complete", "release", "retry", "park"],
)
async def test_what_became_of_events_is_written_by_their_ids(stale: Database, write: Ask) -> None:
    assert await plan_of(stale, write) == [("outbox", "uq_outbox_event_id")]


async def test_orders_are_classified_by_key_and_by_id_and_their_events_by_aggregate(
    database: Database,
) -> None:
    async with database.transaction() as connection:
        for number in range(1_000):
            await insert_order(connection, f"o-{number}", key=f"k-{number}")
    keys = {f"k-{number}" for number in range(200)}
    ids = {f"o-{number}" for number in range(200)}

    async def classify(link: AsyncConnection) -> None:
        await orders.find_taken(link, idempotency_keys=keys, order_ids=ids)

    assert await plan_of(database, classify) == [
        ("orders", "uq_orders_idempotency_key"),
        ("orders", "PRIMARY"),
        ("outbox", "ix_outbox_aggregate"),
    ]


async def test_dead_letters_are_found_again_by_the_index_of_their_digests(
    database: Database,
) -> None:
    digests = {hashlib.sha256(str(number).encode()).digest() for number in range(200)}

    async def recall(link: AsyncConnection) -> None:
        await dead_letters.last_occurrences(link, digests)

    assert await plan_of(database, recall) == [("dead_letters", "uq_dead_letters_message")]


async def test_the_purge_finds_what_is_old_by_its_index(stale: Database) -> None:
    plan = await plan_of(
        stale, lambda link: outbox.find_purgeable(link, retention=timedelta(hours=1), limit=1000)
    )

    assert plan == [("outbox", "ix_outbox_waiting")]


@pytest.mark.parametrize(
    "look", [outbox.measure_backlog, lambda link: outbox.find_unsettled(link, 20)]
)
async def test_what_waits_is_counted_and_listed_by_its_index(stale: Database, look: Ask) -> None:
    assert {index for _, index in await plan_of(stale, look)} == {"ix_outbox_waiting"}


async def test_the_claim_reads_a_few_rows_for_each_that_it_gets(stale: Database) -> None:
    async with stale.trial() as connection:
        before = await rows_read(connection)
        assert len(await outbox.lock_claimable(connection, 200, lease_seconds=60)) == 200
        read = await rows_read(connection) - before

    assert read <= 200 * 8


async def test_the_claim_does_not_wait_for_what_another_one_holds(stale: Database) -> None:
    async with stale.trial() as one, stale.trial() as other:
        first = await outbox.lock_claimable(one, 100, lease_seconds=60)
        # A wait would end in an error: the first one's transaction ends after it.
        second = await outbox.lock_claimable(other, 100, lease_seconds=60)

        assert len(first) == len(second) == 100
        assert not {each.event_id for each in first} & {each.event_id for each in second}


async def rows_read(connection: Any) -> int:
    status = await connection.execute(
        text("SHOW SESSION STATUS WHERE Variable_name LIKE 'Handler_read%'")
    )
    return sum(int(value) for _, value in status)
