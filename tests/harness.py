"""What component and integration tests share: a running service, and ears on what it publishes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from sqlalchemy import select
from sqlmodel import SQLModel

from db.engine import Database
from service.app import ServiceApp, create_app
from service.config.settings import Settings
from service.observability import Action
from tests.patience import PATIENCE_SECONDS

# Deadlines of the service: none is missed for a slow machine's sake, and a lease that a process has
# left behind ends within the patience of tests.
PATIENT: dict[str, Any] = {
    "db_timeout_seconds": 60,
    "db_connect_timeout_seconds": 30,
    "mq_connect_timeout_seconds": 30,
    "mq_heartbeat_seconds": 60,
    "publish_timeout_seconds": 60,
    "relay_lease_seconds": 75,
    "shutdown_timeout_seconds": 60,
}


def settings_for(**overrides: Any) -> Settings:
    """Settings of a test: quick polls, patient deadlines, and nothing from the environment."""
    usual: dict[str, Any] = {"environment": "development", "relay_poll_seconds": 0.1}
    return Settings(**PATIENT | usual | overrides)


def logged(caplog: pytest.LogCaptureFixture, action: Action) -> list[dict[str, Any]]:
    """The fields of every line of this action."""
    lines = [record for record in caplog.records if record.getMessage() == action]
    return [line.__dict__["fields"] for line in lines]


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[ServiceApp]:
    """The whole service in this process, consuming; ended gracefully with the block."""
    app = create_app(settings)
    async with app.start_lifespan_context():
        assert app.broker is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            await app.broker.start()  # returns once it consumes
        yield app


async def rows(database: Database, table: type[SQLModel]) -> list[Any]:
    """All rows of a table, as they are now."""
    async with database.reading() as connection:
        return list(await connection.execute(select(table.__table__)))  # type: ignore[attr-defined]


async def eventually(condition: Any, *, within: float = PATIENCE_SECONDS) -> Any:
    """Poll an async condition until it gives something true, and return that."""
    async with asyncio.timeout(within):
        while not (found := await condition()):
            await asyncio.sleep(0.02)
        return found


@dataclass
class Wire:
    """A client of a real broker: sends as producers do, and hears what the queues hold."""

    connection: aio_pika.abc.AbstractConnection
    channel: aio_pika.abc.AbstractChannel
    heard: dict[str, list[AbstractIncomingMessage]] = field(default_factory=dict)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    @classmethod
    @asynccontextmanager
    async def connected(cls, url: str) -> AsyncIterator[Wire]:
        connection = await aio_pika.connect(url, timeout=PATIENCE_SECONDS)
        async with connection:
            channel = await connection.channel(on_return_raises=True)
            yield cls(connection, channel)

    async def send(
        self, body: bytes, *, queue: str = "order_created_queue", **properties: Any
    ) -> None:
        """Publish to a queue, persistent, and wait for the confirm."""
        message = aio_pika.Message(
            body, delivery_mode=aio_pika.DeliveryMode.PERSISTENT, **properties
        )
        await self.channel.default_exchange.publish(message, queue, mandatory=True)

    async def listen(self, *queues: str) -> None:
        """Consume and acknowledge from now on whatever comes to these queues."""
        for name in queues:
            self.heard[name] = []
            queue = await self.channel.get_queue(name, ensure=False)
            await queue.consume(self._hearer(name))

    async def hear(self, queue: str, count: int) -> Sequence[AbstractIncomingMessage]:
        """All that was heard on the queue, once that is at least `count` messages."""
        async with asyncio.timeout(PATIENCE_SECONDS), self._news:
            await self._news.wait_for(lambda: len(self.heard[queue]) >= count)
            return list(self.heard[queue])

    async def depth(self, queue: str) -> int:
        """Ready messages in the queue."""
        channel = await self.connection.channel()
        async with channel:
            declared = await channel.declare_queue(queue, passive=True)
            return declared.declaration_result.message_count or 0

    async def take_and_drop(self, queue: str) -> None:
        """Take one message and go away without a word, as a process does that dies."""
        channel = await self.connection.channel()
        async with channel:
            there = await channel.get_queue(queue, ensure=False)
            # What was dropped before is back in the queue some time after that.
            await eventually(lambda: there.get(fail=False, timeout=PATIENCE_SECONDS))

    def _hearer(self, name: str) -> Any:
        async def hear(message: AbstractIncomingMessage) -> None:
            await message.ack()
            async with self._news:
                self.heard[name].append(message)
                self._news.notify_all()

        return hear
