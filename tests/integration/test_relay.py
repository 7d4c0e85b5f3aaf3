"""The relay on a real outbox and a real broker: confirms, fences, order, parking, purging."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import aio_pika
import pytest
from sqlalchemy import text

from db import outbox
from db.engine import Database
from db.models import OutboxEvent
from service.app import Service
from service.config.settings import Settings
from service.domain.errors import BrokerAwayError
from service.observability import Metrics
from service.outbox.cleaner import Purge
from service.outbox.completer import Completer, Counts
from service.outbox.envelope import Row, new_id
from service.outbox.handover import Handover
from service.outbox.publisher import Publisher, PublishOutcome
from service.outbox.relay import Relay
from service.rabbitmq import declaration
from tests.harness import Wire, rows

PROCESSED = "order_processed_queue"


@pytest.fixture
async def service(settings: Settings, database: Database, mq_url: str) -> AsyncIterator[Service]:
    """The wired parts, with queues and schema in place, and nothing running."""
    service = Service(settings.model_copy(update={"relay_max_attempts": 2}))
    connection = await aio_pika.connect(mq_url)
    async with connection:
        await declaration.ensure(service.topology, connection)
    yield service
    await service.relay.close()
    await service.database.dispose()


def event(aggregate: str = "", **changes: Any) -> Row:
    """An outbox row, of an aggregate of its own where none is named."""
    event_id = new_id()
    return {
        "event_id": event_id,
        "event_type": "OrderProcessed",
        "aggregate_type": "order",
        "aggregate_id": aggregate or event_id,
        "exchange": "order_events",
        "routing_key": "order.processed",
        "payload": b'{"b": 1,  "a": "\xc3\xa9"}',
        "content_type": "application/json",
        "correlation_id": None,
        "headers": {},
        "lease_token": None,
    } | changes


async def put(database: Database, *events: Row) -> None:
    async with database.transaction() as connection:
        await outbox.add_events(connection, events)


def relay_of(service: Service, publisher: Publisher) -> Relay:
    metrics = Metrics()
    return Relay(
        service.database,
        publisher,
        metrics,
        Handover(capacity=100, lease_seconds=600),
        completer=Completer(service.database, metrics, max_attempts=2, batch_size=200),
        purge=purge_of(service),
        batch_size=100,
        lease_seconds=600,
        poll_seconds=0.1,
    )


def purge_of(service: Service) -> Purge:
    return Purge(service.database, retention=timedelta(hours=1), interval_seconds=60, batch_size=10)


async def test_the_bytes_of_the_row_are_published_under_its_event_id(
    service: Service, database: Database, wire: Wire
) -> None:
    row = event()
    await put(database, row)

    assert await service.relay.run_once() == Counts(claimed=1, published=1)

    await wire.listen(PROCESSED)
    (message,) = await wire.hear(PROCESSED, 1)
    assert (message.body, message.message_id) == (row["payload"], row["event_id"])
    assert await service.relay.run_once() == Counts()


async def test_an_event_without_a_route_is_retried_then_parked_and_its_neighbours_go_out(
    service: Service, database: Database, wire: Wire
) -> None:
    lost, fine = event(routing_key="nobody.listens"), event()
    await put(database, lost, fine)

    assert await service.relay.run_once() == Counts(claimed=2, published=1, retried=1)
    assert await service.relay.run_once() == Counts()  # not due yet
    await make_due(database)
    assert await service.relay.run_once() == Counts(claimed=1, parked=1)
    await make_due(database)
    assert await service.relay.run_once() == Counts()

    stored = {row.event_id: row for row in await rows(database, OutboxEvent)}
    parked = stored[lost["event_id"]]
    assert (parked.attempts, parked.published_at) == (2, None)
    assert parked.parked_at is not None
    assert "NO_ROUTE" in parked.last_error


async def test_a_parked_event_holds_back_later_events_of_its_aggregate_and_no_others(
    service: Service, database: Database, wire: Wire
) -> None:
    await put(
        database,
        event("order-1", routing_key="nobody.listens"),
        event("order-1"),
        event("order-2"),
        event("order-1", aggregate_type="shipment"),
    )

    assert await service.relay.run_once() == Counts(claimed=3, published=2, retried=1)
    await make_due(database)
    assert await service.relay.run_once() == Counts(claimed=1, parked=1)
    await make_due(database)

    assert await service.relay.run_once() == Counts()


async def test_events_of_one_aggregate_keep_their_order_and_go_out_by_one_claim(
    service: Service, database: Database, wire: Wire
) -> None:
    await put(database, *(event("order-1", payload=f"{n}".encode()) for n in range(20)))

    assert await service.relay.run_once() == Counts(claimed=20, published=20)

    await wire.listen(PROCESSED)
    heard = await wire.hear(PROCESSED, 20)
    assert [message.body for message in heard] == [f"{n}".encode() for n in range(20)]


async def test_what_is_committed_while_a_claim_runs_is_not_claimed_before_what_came_with_it(
    service: Service, database: Database
) -> None:
    """The first of each pair is leased from birth, so nobody can claim either of them."""
    writing, rounds = True, 0

    async def write() -> None:
        numbers = itertools.count()
        while (number := next(numbers)) < 300 or rounds < 30:
            pair = [event(f"order-{number}", lease_token="somebody"), event(f"order-{number}")]
            await put(database, *pair, *(event(f"lone-{number}-{n}") for n in range(3)))

    async def claim() -> list[str]:
        nonlocal rounds
        found = []
        while writing:
            async with database.transaction() as connection:
                found += [each.aggregate_id for each in await service.relay._lock(connection)]
            rounds += 1
        return found

    claiming = asyncio.gather(*(claim() for _ in range(3)))
    await write()
    writing = False

    found = [aggregate for each in await claiming for aggregate in each]
    assert found, "the claims ran beside the writing"
    assert [aggregate for aggregate in found if aggregate.startswith("order-")] == []


async def test_what_stands_behind_a_failure_is_given_back_untried(
    service: Service, database: Database
) -> None:
    routes = ["order.processed", "nobody.listens", "order.processed", "order.processed"]
    await put(database, *(event("order-1", routing_key=route) for route in routes))

    counts = await service.relay.run_once()

    assert counts == Counts(claimed=2, published=1, retried=1)
    stored = await rows(database, OutboxEvent)
    assert [row.published_at is not None for row in stored] == [True, False, False, False]
    assert [row.attempts for row in stored] == [0, 1, 0, 0]
    assert {row.lease_token for row in stored} == {None}


async def test_a_run_of_followers_ends_before_one_that_is_kept_back(
    service: Service, database: Database
) -> None:
    await put(database, *(event("order-1") for _ in range(4)))
    async with database.transaction() as connection:
        await connection.execute(
            text("UPDATE outbox SET available_at = UTC_TIMESTAMP(6) + INTERVAL 1 HOUR WHERE id = 3")
        )

    assert await service.relay.run_once() == Counts(claimed=2, published=2)
    assert await service.relay.run_once() == Counts()


async def test_followers_that_somebody_is_writing_are_left_and_not_waited_for(
    service: Service, database: Database
) -> None:
    await put(database, *(event("order-1") for _ in range(3)))
    async with database.transaction() as other:
        await other.execute(text("UPDATE outbox SET attempts = 5 WHERE id = 3"))
        # A wait would end in an error: the other's transaction ends after it.
        assert await service.relay.run_once() == Counts(claimed=1, published=1)

    assert await service.relay.run_once() == Counts(claimed=2, published=2)


async def test_a_missing_exchange_is_the_fault_of_its_own_event_alone(
    service: Service, database: Database
) -> None:
    await put(database, event(), event(exchange="no-such-exchange"), event())

    assert await service.relay.run_once() == Counts(claimed=3, published=2, retried=1)

    (failed,) = [row for row in await rows(database, OutboxEvent) if not row.published_at]
    assert "no-such-exchange" in failed.last_error


async def test_a_full_queue_is_waited_for_and_costs_no_attempt(
    service: Service, database: Database, wire: Wire
) -> None:
    full = await wire.channel.declare_queue(
        "full",
        durable=True,
        arguments={"x-max-length": 1, "x-overflow": "reject-publish"},
    )
    await full.bind("order_events", routing_key="to.full")
    await put(database, *(event(routing_key="to.full") for _ in range(3)))

    counts = await service.relay.run_once()

    assert counts.published + counts.deferred == 3
    assert counts.deferred >= 1
    await full.purge()
    await make_due(database)
    await service.relay.run_once()
    assert {row.attempts for row in await rows(database, OutboxEvent)} == {0}


async def test_what_stands_behind_a_deferred_event_is_given_back_untried(
    service: Service, database: Database, wire: Wire
) -> None:
    full = await wire.channel.declare_queue(
        "full", durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"}
    )
    await full.bind("order_events", routing_key="to.full")
    await put(database, *(event("order-1", routing_key="to.full") for _ in range(3)))
    await put(database, event("order-1"))

    counts = await service.relay.run_once()

    assert counts.deferred == 1
    stored = await rows(database, OutboxEvent)
    assert stored[-1].published_at is None, "it would overtake those before it"
    assert {row.lease_token for row in stored} == {None}


async def test_two_relays_on_one_outbox_publish_each_event_once(
    service: Service, settings: Settings, database: Database, wire: Wire
) -> None:
    other = Service(settings)
    events = [event() for _ in range(600)]
    await put(database, *events)

    async def drain(relay: Relay) -> int:
        published = 0
        while counts := (await relay.run_once()).published:
            published += counts
        return published

    counts = await asyncio.gather(drain(service.relay), drain(other.relay))
    await other.relay.close()
    await other.database.dispose()

    assert sum(counts) == 600
    await wire.listen(PROCESSED)
    heard = await wire.hear(PROCESSED, 600)
    assert sorted(m.message_id or "" for m in heard) == sorted(row["event_id"] for row in events)


async def test_a_relay_that_overslept_its_lease_changes_nothing(
    service: Service, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    class Oversleeping:
        """Publishes, and meanwhile somebody else has taken the lease over."""

        async def publish(self, events: Sequence[outbox.ClaimedEvent]) -> list[PublishOutcome]:
            async with database.transaction() as connection:
                taken = "UPDATE outbox SET lease_token = 'somebody-else' WHERE published_at IS NULL"
                await connection.execute(text(taken))
            return await service.publisher.publish(events)

        async def close(self) -> None:
            await service.publisher.close()

    await put(database, event(), event(routing_key="nobody.listens"))

    counts = await relay_of(service, Oversleeping()).run_once()

    assert counts.published == 0
    stored = await rows(database, OutboxEvent)
    assert {(row.published_at, row.attempts, row.lease_token) for row in stored} == {
        (None, 0, "somebody-else")
    }
    assert "lease-lost" in caplog.messages


async def test_a_broker_that_is_away_costs_no_attempt_and_the_claim_is_given_back(
    service: Service, database: Database
) -> None:
    class Away:
        async def publish(self, events: Sequence[outbox.ClaimedEvent]) -> list[PublishOutcome]:
            raise BrokerAwayError("nobody listens there")

        async def close(self) -> None: ...

    await put(database, event())

    with pytest.raises(BrokerAwayError):
        await relay_of(service, Away()).run_once()

    (row,) = await rows(database, OutboxEvent)
    assert (row.attempts, row.lease_token, row.available_at) == (0, None, None)
    assert await service.relay.run_once() == Counts(claimed=1, published=1)


async def test_purging_takes_old_published_events_in_batches_and_nothing_else(
    service: Service, database: Database
) -> None:
    await put(database, *(event() for _ in range(25)), event("kept"), event("parked"))
    async with database.transaction() as connection:
        await connection.execute(
            text(
                "UPDATE outbox SET published_at = UTC_TIMESTAMP(6) - INTERVAL 2 HOUR "
                "WHERE aggregate_id NOT IN ('kept', 'parked')"
            )
        )
        await connection.execute(
            text(
                "UPDATE outbox SET parked_at = UTC_TIMESTAMP(6) - INTERVAL 2 HOUR "
                "WHERE aggregate_id = 'parked'"
            )
        )
    purge = purge_of(service)

    assert [await purge.batch() for _ in range(4)] == [10, 10, 5, 0]
    assert {row.aggregate_id for row in await rows(database, OutboxEvent)} == {"kept", "parked"}


async def make_due(database: Database) -> None:
    """As if the time had come for everything that is kept back."""
    async with database.transaction() as connection:
        await connection.execute(text("UPDATE outbox SET available_at = NULL"))
