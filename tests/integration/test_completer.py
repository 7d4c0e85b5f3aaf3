"""Outcomes into rows: gathered, fenced by the lease, and kept while the database is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from db import outbox
from db.engine import Database
from db.models import OutboxEvent
from db.outbox import ClaimedEvent
from service.app import Service
from service.config.settings import Settings
from service.observability import Metrics
from service.outbox.completer import Batch, Completer, Counts
from service.outbox.envelope import new_id
from service.outbox.publisher import Confirmed, Rejected
from tests.harness import rows
from tests.integration.test_costs import counting
from tests.integration.test_relay import event, put
from tests.patience import PATIENCE_SECONDS

NEVER = 3600.0
"""Seconds: a tick that no test waits for."""


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    service = Service(settings)
    yield service
    await service.database.dispose()


def completer_of(service: Service, **options: Any) -> Completer:
    options = {"batch_size": 3, "tick_seconds": NEVER, "max_attempts": 2} | options
    return Completer(service.database, Metrics(), **options)


async def leased(database: Database, token: str, count: int) -> list[ClaimedEvent]:
    """Events of `count` aggregates in the outbox, leased under `token`."""
    await put(database, *(event(new_id()) for _ in range(count)))
    async with database.transaction() as connection:
        found = await outbox.lock_claimable(connection, count, lease_seconds=600)
        await outbox.lease(connection, [each.event_id for each in found], token=token, seconds=600)
    return found


def confirmed(token: str, *events: ClaimedEvent) -> Batch:
    return Batch(token, [Confirmed(each) for each in events])


async def published(database: Database) -> int:
    return sum(row.published_at is not None for row in await rows(database, OutboxEvent))


async def test_batches_under_one_lease_cost_one_statement_and_one_commit(
    service: Service, database: Database
) -> None:
    token, completer = new_id(), completer_of(service)
    for each in await leased(database, token, 2):
        completer.add(confirmed(token, each))

    with counting(service.database) as costs:
        assert await completer.write() == Counts(claimed=2, published=2)

    assert costs.counted == (1, 1)
    assert await published(database) == 2
    assert completer.unwritten == 0


async def test_outcomes_of_every_kind_and_of_two_leases_are_written_together(
    service: Service, database: Database
) -> None:
    one, other, completer = new_id(), new_id(), completer_of(service)
    first, second, third = await leased(database, one, 3)
    (fourth,) = await leased(database, other, 1)
    completer.add(Batch(one, [Confirmed(first), Rejected(second, "unroutable")], [third]))
    completer.add(confirmed(other, fourth))

    with counting(service.database) as costs:
        counts = await completer.write()

    assert counts == Counts(claimed=3, published=2, retried=1)
    assert costs.commits == 1
    stored = {row.event_id: row for row in await rows(database, OutboxEvent)}
    assert stored[first.event_id].published_at
    assert stored[fourth.event_id].published_at
    assert stored[second.event_id].last_error == "unroutable"
    assert (stored[third.event_id].lease_token, stored[third.event_id].attempts) == (None, 0)


async def test_a_full_batch_is_written_at_once_and_fewer_after_a_tick(
    service: Service, database: Database
) -> None:
    token = new_id()
    events = await leased(database, token, 4)
    for batch, options in ((events[:3], {}), (events[3:], {"tick_seconds": 0.01})):
        completer, settled = completer_of(service, **options), asyncio.Event()
        completer.on_settled = settled.set
        running = asyncio.create_task(completer.run())
        completer.add(confirmed(token, *batch))
        async with asyncio.timeout(PATIENCE_SECONDS):
            await settled.wait()
        running.cancel()
        assert completer.unwritten == 0
    assert await published(database) == 4


async def test_what_a_failed_transaction_should_have_written_is_kept_until_it_is_told_to_try_again(
    service: Service, database: Database
) -> None:
    token, completer, settled = new_id(), completer_of(service, tick_seconds=0.0), asyncio.Event()
    first, second = await leased(database, token, 2)
    completer.on_settled = settled.set
    completer.add(confirmed(token, first))
    await rename(database, "outbox", "elsewhere")
    running = asyncio.create_task(completer.run())
    async with asyncio.timeout(PATIENCE_SECONDS):
        await settled.wait()
    assert completer.failed
    with pytest.raises(ProgrammingError):
        await completer.write()

    await rename(database, "elsewhere", "outbox")
    completer.add(confirmed(token, second))
    assert await completer.write() == Counts(claimed=2, published=2)

    running.cancel()
    assert not completer.failed
    assert await published(database) == 2


async def rename(database: Database, name: str, to: str) -> None:
    async with database.transaction() as connection:
        await connection.execute(text(f"RENAME TABLE {name} TO {to}"))


async def test_what_another_relay_has_taken_meanwhile_is_left_to_it_and_told(
    service: Service, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    token, another, completer = new_id(), new_id(), completer_of(service)
    completer.add(confirmed(token, *await leased(database, token, 1)))
    async with database.transaction() as connection:
        await connection.execute(text(f"UPDATE outbox SET lease_token = '{another}'"))

    assert await completer.write() == Counts(claimed=1)

    assert "lease-lost" in caplog.messages
    (row,) = await rows(database, OutboxEvent)
    assert (row.lease_token, row.published_at) == (another, None)


async def test_what_is_written_already_is_no_lost_lease(
    service: Service, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a COMMIT whose answer was lost."""
    token, completer = new_id(), completer_of(service)
    events = await leased(database, token, 1)
    for _ in range(2):
        completer.add(confirmed(token, *events))
        await completer.write()

    assert "lease-lost" not in caplog.messages
    assert await published(database) == 1


async def test_publishing_waits_once_two_full_transactions_are_behind(
    service: Service, database: Database
) -> None:
    token, completer = new_id(), completer_of(service)
    events = await leased(database, token, 6)
    completer.add(confirmed(token, *events[:5]))
    async with asyncio.timeout(PATIENCE_SECONDS):
        await completer.room()
    completer.add(confirmed(token, *events[5:]))
    waiting = asyncio.create_task(completer.room())
    await asyncio.sleep(0)
    assert not waiting.done()

    await completer.write()

    async with asyncio.timeout(PATIENCE_SECONDS):
        await waiting
