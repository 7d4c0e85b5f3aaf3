"""The application under FastStream's test broker, as its documentation tests one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from faststream import TestApp
from faststream.rabbit import (
    ExchangeType,
    RabbitBroker,
    RabbitExchange,
    RabbitQueue,
    TestRabbitBroker,
)

from db.engine import Database
from db.models import DeadLetter, Order, OutboxEvent
from service.app import ServiceApp, create_app
from service.database import open_database
from tests.factories import order_created_json
from tests.harness import rows, settings_for

INCOMING = "order_created_queue"
DEADLINE_SECONDS = 120


@asynccontextmanager
async def alone(app: ServiceApp) -> AsyncIterator[RabbitBroker]:
    async with TestRabbitBroker(app.service.broker, connect_only=False) as broker:
        yield broker


@asynccontextmanager
async def with_test_app(app: ServiceApp) -> AsyncIterator[RabbitBroker]:
    async with TestRabbitBroker(app.service.broker, connect_only=True) as broker, TestApp(app):
        yield broker


@asynccontextmanager
async def inside_the_lifespan(app: ServiceApp) -> AsyncIterator[RabbitBroker]:
    async with (
        app.start_lifespan_context(),
        TestRabbitBroker(app.service.broker, connect_only=False) as broker,
    ):
        yield broker


WAYS = [alone, with_test_app, inside_the_lifespan]


@pytest.fixture
def app(tmp_path: Path) -> ServiceApp:
    return create_app(settings_for(sqlite_path=tmp_path / "orders.db"))


async def stored(app: ServiceApp, table: Any) -> list[Any]:
    database: Database = open_database(app.service.settings)
    try:
        return await rows(database, table)
    finally:
        await database.dispose()


@pytest.mark.parametrize("way", WAYS)
async def test_an_order_that_is_published_is_stored(app: ServiceApp, way: Any) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS), way(app) as broker:
        await broker.publish(order_created_json(orderId="o-1"), INCOMING)
        await broker.publish(order_created_json(orderId="o-1"), INCOMING)
        await broker.publish(b"no JSON", INCOMING)
    assert [order.order_id for order in await stored(app, Order)] == ["o-1"]
    assert [letter.reason for letter in await stored(app, DeadLetter)] == ["INVALID_JSON"]


async def test_alone_its_event_is_heard_before_publishing_returns(app: ServiceApp) -> None:
    heard: list[Any] = []
    broker = app.service.broker
    exchange = RabbitExchange("order_events", type=ExchangeType.TOPIC, declare=False)

    @broker.subscriber(RabbitQueue("mine", routing_key="order.*"), exchange)
    async def hear(event: dict[str, Any]) -> None:
        heard.append(event["orderId"])
        if event["orderId"] == "o-1":
            await broker.publish(
                order_created_json(orderId="o-2", idempotencyKey="follow-up"), INCOMING
            )

    async with asyncio.timeout(DEADLINE_SECONDS), alone(app):
        await broker.publish(order_created_json(orderId="o-1"), INCOMING)
        assert sorted(heard) == ["o-1", "o-2"]
        many = [
            order_created_json(orderId=f"m-{number}", idempotencyKey=f"k-{number}")
            for number in range(20)
        ]
        await asyncio.gather(*(broker.publish(each, INCOMING) for each in many))
        assert len(heard) == 22
    assert all(event.published_at for event in await stored(app, OutboxEvent))
