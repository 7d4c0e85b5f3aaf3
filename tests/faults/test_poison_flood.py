"""A flood of poison costs the orders among it nothing but their place in the queue: counted."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pytest

from db.models import DeadLetter, Order, OutboxEvent
from service.settings import Settings
from service.storage import migrate, open_database
from service.topology import Topology
from tests.faults.corpus.case import Case, Dead
from tests.faults.corpus.series import Series, body_of, text_of
from tests.faults.corpus_run import (
    DLQ,
    FAILED,
    INCOMING,
    PROCESSED,
    done,
    exposed,
    listening,
    publish,
)
from tests.harness import rows, settings_for
from tests.processes import ServiceProcess, service_process

pytestmark = pytest.mark.servers

POISON, ORDERS = 2000, 200
# Far from one message at a time, and far from what a quiet machine does (150 and more).
LEAST_IN_A_BATCH = 10


@pytest.fixture
async def settings(database_url: str, mq_url: str) -> Settings:
    """Of a migrated database, and of a vhost that has the queues."""
    settings = settings_for(database_url=database_url, mq_url=mq_url)
    database = open_database(settings)
    await migrate(database)
    await database.dispose()
    return settings


def poison(series: Series) -> Iterator[Case]:
    """Without end, of each kind in turn."""
    while True:
        yield series.not_json("no JSON", text_of(series.order())[:-1])
        yield series.no_order("no order", series.order(totalAmount=0, items=None))
        yield series.not_json("no UTF-8", body_of(series.order()) + b"\xff")
        yield series.not_json("too deep", text_of(series.order()) + "[" * 1000)


def orders(series: Series) -> Iterator[Case]:
    while True:
        yield series.stored("an order", series.order())


def metric(metrics: str, name: str) -> float:
    """The sum over a metric's labels."""
    values = [line for line in metrics.splitlines() if line.partition("{")[0].split()[0] == name]
    assert values, f"no metric {name}"
    return sum(float(line.split()[-1]) for line in values)


async def process(
    settings: Settings, before: Sequence[Case], then: Sequence[Case] = ()
) -> tuple[str, list[Any]]:
    """What the metrics say once all of it is done, and what the service has said."""
    async with listening(settings, ensure=Topology.of(settings)) as wire:
        await publish(wire, before)
        with service_process(settings) as service:
            await asyncio.to_thread(service.wait_for_status, "/health/ready", 200)
            await publish(wire, then)
            await done(wire, service, [*before, *then])
            heard = {queue: len(wire.heard[queue]) for queue in (PROCESSED, FAILED, DLQ)}
            metrics = await asyncio.to_thread(exposed, service)
            assert await wire.depth(INCOMING) == 0
            assert not trouble(service)
    dead = sum(isinstance(case.expected, Dead) for case in (*before, *then))
    assert heard == {PROCESSED: len(before) + len(then) - dead, FAILED: dead, DLQ: dead}
    database = open_database(settings)
    events = await rows(database, OutboxEvent)
    assert len(await rows(database, Order)) == heard[PROCESSED]
    assert len(await rows(database, DeadLetter)) == dead
    await database.dispose()
    return metrics, sorted(events, key=lambda event: int(event.id))


def trouble(service: ServiceProcess) -> list[dict[str, Any]]:
    """All that it says when something had to be done again."""
    actions = ("intake-retrying", "message-failed", "event-retried", "event-parked", "lease-lost")
    return [fields for action in actions for fields in service.told(action)]


async def test_orders_behind_a_flood_of_poison_are_processed_without_a_retry(
    settings: Settings,
) -> None:
    ahead = list(islice(poison(Series("flood")), POISON))
    behind = list(islice(orders(Series("behind")), ORDERS))

    metrics, events = await process(settings, [*ahead, *behind])

    assert metric(metrics, "orders_messages_total") == POISON + ORDERS
    assert metric(metrics, "orders_relay_retried_total") == 0
    assert metric(metrics, "orders_relay_published_total") == 2 * POISON + ORDERS
    assert {event.attempts for event in events} == {0}


async def test_dead_letters_are_committed_and_published_together(settings: Settings) -> None:
    metrics, _ = await process(settings, list(islice(poison(Series("flood")), POISON)))

    assert metric(metrics, "orders_intake_batch_size_sum") == POISON
    assert metric(metrics, "orders_intake_batch_size_count") <= POISON / LEAST_IN_A_BATCH
    assert metric(metrics, "orders_relay_batch_seconds_count") <= 2 * POISON / LEAST_IN_A_BATCH


async def test_an_order_in_a_flood_is_overtaken_by_no_more_than_what_is_in_flight(
    settings: Settings,
) -> None:
    flood, series = poison(Series("flood")), orders(Series("among"))
    mixed = [case for _ in range(ORDERS) for case in (*islice(flood, 10), next(series))]

    _, events = await process(settings, mixed[: len(mixed) // 2], mixed[len(mixed) // 2 :])

    recorded = [event.event_type for event in events if event.event_type != "DeadLetter"]
    places = [place for place, event in enumerate(recorded) if event == "OrderProcessed"]
    in_flight = settings.prefetch_count + settings.intake_batch_size
    late = [place - 11 * number for number, place in enumerate(places, 1)]
    assert len(places) == ORDERS
    assert max(late) <= in_flight
