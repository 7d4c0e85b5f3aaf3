"""From the commit to the relay of the same process, past the claim: on a real outbox and broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast

import aio_pika
import aiormq
import pytest
from sqlalchemy import text

from db import outbox
from db.engine import Database
from db.models import OutboxEvent
from service.app import Service
from service.config.settings import Settings
from service.domain.errors import BrokerAwayError
from service.outbox.completer import Counts
from service.outbox.envelope import new_id
from service.outbox.publisher import ConfirmingPublisher, PublishOutcome
from service.rabbitmq import declaration
from tests.factories import claimed_event
from tests.harness import Wire, eventually, rows
from tests.integration.test_costs import Costs, candidate, counting, take_in
from tests.integration.test_relay import event, put, relay_of
from tests.patience import PATIENCE_SECONDS

FAILED = "order_failed_queue"


@pytest.fixture
async def service(settings: Settings, database: Database, mq_url: str) -> AsyncIterator[Service]:
    """The wired parts, nothing running, and a relay that has caught up; no claim falls due."""
    service = Service(settings.model_copy(update={"relay_lease_seconds": 3600}))
    service.relay._poll_seconds = 3600
    async with await aio_pika.connect(mq_url) as connection:
        await declaration.ensure(service.topology, connection)
    assert await service.relay.run_once() == Counts()
    assert service.handover.open
    yield service
    await service.relay.close()
    await service.database.dispose()


def claims(costs: Costs) -> list[str]:
    """The statements by which the outbox was asked for events."""
    return [each for each in costs.statements if "SKIP LOCKED" in each]


async def waits_for_news(service: Service) -> bool:
    """Whether the relay, which runs, has nothing to do and waits."""
    return not service.relay.busy


async def handed_over(service: Service, count: int) -> bool:
    return len(service.handover) >= count


async def leases(database: Database) -> list[str | None]:
    return [row.lease_token for row in await rows(database, OutboxEvent)]


async def test_what_was_handed_over_costs_one_statement_and_one_commit_to_publish(
    service: Service, database: Database, wire: Wire
) -> None:
    await take_in(service, *(candidate(number) for number in range(100)))

    with counting(service.database) as costs:
        assert await service.relay.run_once() == Counts(claimed=100, published=100)

    assert costs.counted == (1, 1)
    assert all(row.published_at for row in await rows(database, OutboxEvent))
    await wire.listen("order_processed_queue")
    assert len(await wire.hear("order_processed_queue", 100)) == 100


async def test_a_thousand_orders_at_a_prefetch_of_200_cost_20_statements_10_commits_1000_confirms(
    service: Service, database: Database
) -> None:
    with counting(service.database) as costs:
        for first in range(0, 1000, 200):
            await take_in(service, *(candidate(first + number) for number in range(200)))
            assert (await service.relay.run_once()).published == 200

    assert costs.counted == (20, 10)
    assert isinstance(service.publisher, ConfirmingPublisher)
    assert service.publisher._channel is not None
    channel = await service.publisher._channel.get_underlay_channel()
    published = cast("aiormq.Channel", channel).delivery_tag
    assert published == 1000, "in confirm mode a channel counts what it publishes"


async def test_a_batch_is_published_together_no_event_waits_until_another_is_written(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    drains, drain = 0, asyncio.StreamWriter.drain

    async def counted(writer: asyncio.StreamWriter) -> None:
        nonlocal drains
        drains += 1
        await drain(writer)

    monkeypatch.setattr(asyncio.StreamWriter, "drain", counted)
    events = [claimed_event(exchange=service.topology.exchange) for _ in range(100)]
    await service.publisher.publish(events[:1])
    drains = 0

    await service.publisher.publish(events[1:])

    assert drains == 0


async def test_the_event_is_the_same_whether_it_was_handed_over_or_claimed(
    service: Service, database: Database, wire: Wire
) -> None:
    await take_in(service, candidate())
    await service.relay.run_once()
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE outbox SET published_at = NULL"))
    assert await relay_of(service, service.publisher).run_once() == Counts(claimed=1, published=1)

    await wire.listen("order_processed_queue")
    handed, claimed = await wire.hear("order_processed_queue", 2)
    assert handed.body == claimed.body
    assert handed.properties == claimed.properties


async def test_nobody_claims_what_was_handed_over_before_its_lease_is_over(
    service: Service, database: Database
) -> None:
    await take_in(service, candidate())

    async with database.transaction() as connection:
        assert await outbox.lock_claimable(connection, 10, lease_seconds=3600) == []
        assert len(await outbox.lock_claimable(connection, 10, lease_seconds=0)) == 1


async def test_an_event_behind_one_that_is_not_written_yet_waits_for_no_poll(
    service: Service, database: Database
) -> None:
    """The poll is an hour away: what is claimed here is claimed for what was written down."""
    await take_in(service, candidate(0))
    await take_in(service, candidate(0, "6.00"))
    assert (await service.relay._step()).published == 2, "the order's, and the conflict's copy"
    assert await service.relay._step() == Counts()
    assert not service.relay._claim_is_due, "it claims once, and not until that is written"

    assert (await service.relay._completer.write()).published == 2
    assert service.relay._claim_is_due
    await eventually(lambda: drained(service, database))


async def drained(service: Service, database: Database) -> bool:
    await service.relay.run_once()
    return all(row.published_at for row in await rows(database, OutboxEvent))


async def test_a_second_event_of_an_order_is_not_handed_over_before_the_first_is_out(
    service: Service, database: Database, wire: Wire
) -> None:
    await take_in(service, candidate(), candidate(amount="6.00"))
    await take_in(service, candidate(amount="7.00"))

    tokens = {row.event_type: row.lease_token for row in await rows(database, OutboxEvent)}
    assert tokens["OrderProcessed"] == service.handover.token
    assert tokens["OrderFailed"] is None
    published = [(await service.relay.run_once()).published for _ in range(3)]
    assert published == [3, 2, 0], "its first event and two copies, then the rest, in their order"
    await wire.listen(FAILED)
    assert len(await wire.hear(FAILED, 2)) == 2


async def test_an_order_whose_earlier_event_is_parked_is_not_handed_over(
    service: Service, database: Database
) -> None:
    parked = event("o-0")
    await put(database, parked)
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE outbox SET parked_at = UTC_TIMESTAMP(6)"))

    await take_in(service, candidate(0), candidate(1))

    stored = {row.aggregate_id: row.lease_token for row in await rows(database, OutboxEvent)}
    assert stored == {"o-0": None, "o-1": service.handover.token}


async def test_a_relay_with_a_backlog_takes_nothing_over_so_that_the_oldest_go_first(
    service: Service, database: Database
) -> None:
    await put(database, *(event() for _ in range(100)))
    relay = relay_of(service, service.publisher)
    relay._handover = service.handover
    await relay.run_once()
    assert not service.handover.open

    await take_in(service, candidate())

    assert await leases(database) == [None] * 101
    await relay.run_once()
    assert service.handover.open


async def test_while_the_broker_is_away_what_was_handed_over_goes_back_to_the_outbox(
    service: Service, database: Database
) -> None:
    class Away:
        async def publish(self, events: Sequence[outbox.ClaimedEvent]) -> list[PublishOutcome]:
            raise BrokerAwayError("nobody listens there")

        async def close(self) -> None: ...

    service.relay._publisher = Away()
    await take_in(service, *(candidate(number) for number in range(150)))
    await take_in(service, *(candidate(number) for number in range(150, 300)))
    assert len(service.handover) == 300
    running = asyncio.create_task(service.relay.run())
    async with asyncio.timeout(PATIENCE_SECONDS):
        while any(await leases(database)):
            await asyncio.sleep(0.02)
    service.relay.stop()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await running

    assert {(row.lease_token, row.attempts) for row in await rows(database, OutboxEvent)} == {
        (None, 0)
    }


async def test_a_relay_that_is_stopped_writes_down_what_it_has_published(
    service: Service, database: Database
) -> None:
    await take_in(service, candidate())
    await service.relay._step()
    assert service.relay.busy
    service.relay.stop()

    async with asyncio.timeout(PATIENCE_SECONDS):
        await service.relay.run()

    (row,) = await rows(database, OutboxEvent)
    assert row.published_at
    assert not service.relay.busy


async def test_a_relay_that_has_nothing_to_do_claims_once_in_its_time_and_not_after_each_event(
    service: Service, database: Database
) -> None:
    with counting(service.database) as costs:
        running = asyncio.create_task(service.relay.run())
        await eventually(lambda: waits_for_news(service))
        for number in range(5):
            await take_in(service, candidate(number))
            await eventually(lambda: waits_for_news(service))
        service.relay.stop()
        await running

    assert len(claims(costs)) == 1, "the one that is made at start"
    assert all(row.published_at for row in await rows(database, OutboxEvent))


async def test_a_flood_is_handed_over_and_not_claimed_since_intake_waits_for_the_relay(
    service: Service, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intake runs by itself, and the relay takes a step whenever a batch lies before it."""
    monkeypatch.setattr("service.outbox.handover.LONGEST_WAIT_SECONDS", 3600)
    batch, batches = 200, 10
    with counting(service.database) as costs:
        intake = asyncio.create_task(service.intake.run())
        submitted = [
            asyncio.create_task(service.intake.submit(candidate(number)))
            for number in range(batch * batches)
        ]
        for number in range(1, batches + 1):
            await eventually(lambda: handed_over(service, batch))
            assert len(service.intake._waiting) == batch * (batches - number), "intake waits"
            await service.relay.run_once()
        await asyncio.gather(*submitted)
        while service.relay.busy:
            await service.relay.run_once()
        intake.cancel()
        await asyncio.gather(intake, return_exceptions=True)

    stored = await rows(database, OutboxEvent)
    assert len(stored) == batch * batches
    assert all(row.published_at for row in stored)
    assert claims(costs) == []
    assert costs.commits == 2 * batches, "one to store a batch, and one to complete it"


async def test_a_stranger_to_the_lease_changes_nothing(
    service: Service, database: Database
) -> None:
    await take_in(service, candidate())
    (row,) = await rows(database, OutboxEvent)

    async with database.transaction() as connection:
        assert await outbox.complete(connection, [row.event_id], token=new_id()) == 0
        await outbox.release(connection, [row.event_id], token=new_id())

    assert await leases(database) == [service.handover.token]


async def test_a_commit_that_failed_hands_nothing_over(
    service: Service, database: Database
) -> None:
    async with database.transaction() as connection:
        await connection.execute(text("RENAME TABLE outbox TO elsewhere"))
    waiting = asyncio.create_task(service.intake.submit(candidate()))
    await asyncio.sleep(0)
    service.intake.abandon()
    await service.intake.run_once()
    await asyncio.gather(waiting, return_exceptions=True)

    assert len(service.handover) == 0
