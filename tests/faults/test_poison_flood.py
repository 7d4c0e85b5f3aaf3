"""A flood of poison costs the orders among it nothing but their place in the queue: counted."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pytest
from prometheus_client import generate_latest

from db.models import DeadLetter, Order, OutboxEvent
from service.app import ServiceApp
from service.config.settings import Settings
from service.database import migrate, open_database
from service.rabbitmq.topology import Topology
from tests.factories import order_created_json
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
from tests.harness import Wire, eventually, rows, running, settings_for
from tests.integration.steps import all_published, insert_order, lock_waits
from tests.processes import ServiceProcess, service_process
from tests.servers import AnyDatabase

pytestmark = pytest.mark.servers

POISON, ORDERS = 2000, 200


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
    async with listening(settings, topology=Topology.of(settings)) as wire:
        await publish(wire, before)
        with service_process(settings) as service:
            await asyncio.to_thread(service.wait_for_status, "/health/ready", 200)
            await publish(wire, then)
            await done(wire, service, [*before, *then])
            heard = {queue: len(wire.heard[queue]) for queue in (PROCESSED, FAILED, DLQ)}
            # That it was published is written down later than it is heard.
            metrics = await eventually(lambda: once_published(service, sum(heard.values())))
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


async def once_published(service: ServiceProcess, events: int) -> str | None:
    """What the metrics say; None as long as they know of fewer events that were published."""
    metrics = await asyncio.to_thread(exposed, service)
    return metrics if metric(metrics, "orders_relay_published_total") >= events else None


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


async def test_dead_letters_are_committed_and_published_together(
    settings: Settings, database_server: AnyDatabase
) -> None:
    database = open_database(settings)
    flood = list(islice(poison(Series("flood")), settings.prefetch_count - 1))
    async with running(settings) as app, Wire.connected(settings.broker) as wire:
        async with database.engine.connect() as gate:
            # Not committed: while the first batch waits for it, the whole flood gathers.
            await insert_order(gate, "gate", key="gate")
            await wire.send(order_created_json(orderId="gate", idempotencyKey="first"))
            await eventually(lambda: lock_waits(database_server))
            await publish(wire, flood)
            await eventually(lambda: gathered(app, len(flood)))
            await gate.rollback()
        await eventually(lambda: all_published(database, 1 + 2 * len(flood)))
        metrics = generate_latest(app.service.metrics.registry).decode()
    await database.dispose()

    assert metric(metrics, "orders_intake_batch_size_sum") == 1 + len(flood)
    assert metric(metrics, "orders_intake_batch_size_count") == 2, "the first, and all the others"
    most = 1 + math.ceil(2 * len(flood) / settings.relay_batch_size)
    assert metric(metrics, "orders_relay_batch_seconds_count") <= most


async def gathered(app: ServiceApp, count: int) -> bool:
    """Whether so many messages wait for the batch that is under way."""
    return len(app.service.intake._waiting) == count


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
