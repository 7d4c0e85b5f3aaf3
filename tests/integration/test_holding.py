"""What is held of messages, on a real link: so many bytes, whatever their number."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aio_pika
import pytest
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from sqlalchemy import text
from yarl import URL

from db.engine import Database
from db.models import DeadLetter, Order
from service.config.settings import Settings
from service.consumer import flow_control
from service.consumer.flow_control import BUDGET, Budget, hold_within_budgets
from service.observability import Action
from tests.factories import order_created_json
from tests.harness import Wire, eventually, logged, rows, running
from tests.integration.steps import DLQ, INCOMING

BODY = b"x" * 100
ROOM_FOR_ONE = 150


@pytest.fixture(autouse=True)
def _all_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="orders")


@dataclass
class Consumer:
    """Handles one message after the other when it is let, and acknowledges it."""

    connection: AbstractConnection
    begun: list[AbstractIncomingMessage] = field(default_factory=list)
    done: list[bool | None] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, message: AbstractIncomingMessage) -> None:
        self.begun.append(message)
        await self.go.wait()
        await message.ack()
        self.done.append(message.redelivered)


@pytest.fixture
async def consumer(mq_url: str) -> AsyncIterator[Consumer]:
    """Of a queue of its own, on a link with a budget."""
    hold_within_budgets()
    url = str(URL(mq_url).update_query({BUDGET: str(ROOM_FOR_ONE)}))
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=50)
        queue = await channel.declare_queue("held", durable=True)
        consumer = Consumer(connection)
        await queue.consume(consumer.handle)
        yield consumer
        await queue.delete(if_empty=False, if_unused=False)


async def publish(mq_url: str, count: int) -> None:
    async with Wire.connected(mq_url) as wire:
        for _ in range(count):
            await wire.send(BODY, queue="held")


async def test_what_there_is_no_room_for_is_put_aside_and_comes_again(
    consumer: Consumer,
    mq_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flow_control, "ROOM_SECONDS", 0.01)
    await publish(mq_url, 3)

    async def both_put_aside() -> bool:
        return len(logged(caplog, Action.PUT_ASIDE)) == 2

    async def all_done() -> bool:
        return len(consumer.done) == 3

    await eventually(both_put_aside)
    assert len(consumer.begun) == 1
    async with consumer.connection.channel() as other:  # the link still answers
        await other.declare_queue("held", durable=True, passive=True)
    monkeypatch.setattr(flow_control, "ROOM_SECONDS", 60)
    consumer.go.set()
    await eventually(all_done)

    assert consumer.done == [False, True, True]


async def test_what_there_is_no_room_for_waits_on_the_link_and_comes_once(
    consumer: Consumer,
    mq_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(flow_control, "ROOM_SECONDS", 60)
    await publish(mq_url, 40)

    async def one_begun() -> bool:
        return len(consumer.begun) == 1

    async def all_done() -> bool:
        return len(consumer.done) == 40

    await eventually(one_begun)
    consumer.go.set()
    await eventually(all_done)

    assert set(consumer.done) == {False}
    assert logged(caplog, Action.PUT_ASIDE) == []


def test_one_message_alone_may_be_larger_than_the_budget() -> None:
    budget = Budget(100)
    assert budget.fits(1000)
    budget.hold(1000)
    assert not budget.fits(1)
    budget.free(1000)
    budget.hold(60)
    assert budget.fits(40)
    assert not budget.fits(41)


async def test_in_an_outage_the_budget_holds_and_the_link_does_too(
    settings: Settings,
    database: Database,
    mq_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One table cannot be written for a while: what is in hand stays, the rest is put aside."""
    monkeypatch.setattr(flow_control, "ROOM_SECONDS", 0.05)
    one_mebibyte = settings.model_copy(update={"prefetch_mebibytes": 1})
    async with running(one_mebibyte) as app, Wire.connected(mq_url) as wire:
        async with database.trial() as connection:
            await connection.execute(text("LOCK TABLES dead_letters READ"))
            for _ in range(5):
                await wire.send(b"\xff" * 900_000)
            await wire.send(order_created_json())

            async def some_put_aside() -> bool:
                return len(logged(caplog, Action.PUT_ASIDE)) >= 2

            await eventually(some_put_aside)
            assert app.broker is not None
            assert await app.service.broker.answers()
            monkeypatch.setattr(flow_control, "ROOM_SECONDS", 10)
            await connection.execute(text("UNLOCK TABLES"))

        async def all_processed() -> bool:
            return len(await rows(database, Order)) == 1 and await wire.depth(DLQ) == 5

        await eventually(all_processed)
        assert len(await rows(database, DeadLetter)) == 5
        assert await wire.depth(INCOMING) == 0

    assert logged(caplog, Action.CONSUMING_STOPPED) == []
    assert logged(caplog, Action.MESSAGE_FAILED) == []
