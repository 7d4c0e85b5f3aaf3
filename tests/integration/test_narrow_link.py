"""A link too narrow for what is to be published: slow, and neither stuck nor repeating itself."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from db.engine import Database
from db.models import OutboxEvent
from service.config.settings import Settings
from service.observability import Action
from tests.harness import Wire, eventually, logged, rows, running, settings_for
from tests.integration.steps import all_published, numbered
from tests.servers import AnyRabbit

LARGE = 12
LARGE_BYTES = 420 * 1024
ORDERS = 5


class NarrowWay:
    """Passes bytes to the broker at a pace, in small pieces through small buffers."""

    def __init__(self, host: str, port: int) -> None:
        self._there = (host, port)
        self.bytes_per_second = 100_000_000.0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=4096)
        async with server:
            yield server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._there)
        ways = [
            asyncio.create_task(self._pass(reader, there_writer, paced=True)),
            asyncio.create_task(self._pass(there_reader, writer, paced=False)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            for way in ways:
                way.cancel()
            for end in (writer, there_writer):
                end.transport.abort()

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, paced: bool
    ) -> None:
        try:
            while piece := await reader.read(4096):
                if paced:
                    await asyncio.sleep(len(piece) / self.bytes_per_second)
                writer.write(piece)
                await writer.drain()
        except OSError:
            return


@pytest.fixture
def narrow(rabbit_server: AnyRabbit) -> NarrowWay:
    return NarrowWay(rabbit_server.host, rabbit_server.port)


async def send_large_and_orders(wire: Wire) -> None:
    for number in range(LARGE):
        await wire.send(f"{number} is no JSON ".encode().ljust(LARGE_BYTES, b"x"))
    for number in range(ORDERS):
        await wire.send(numbered(number))


async def test_a_batch_that_outlasts_the_deadline_gets_through_without_repeating_itself(
    database_url: str, database: Database, mq_url: str, wire: Wire, narrow: NarrowWay
) -> None:
    async with narrow.open() as port:
        slow = by_the_narrow_way(
            database_url, mq_url, port, publish_timeout_seconds=6.0, relay_lease_seconds=60
        )
        async with running(slow):
            await wire.listen("order_dlq", "order_processed_queue")
            # All of it takes 17 s, and the deadline for a confirm is 6 s: each event takes 1.4 s.
            narrow.bytes_per_second = 300_000.0
            await send_large_and_orders(wire)
            await eventually(lambda: all_published(database, 2 * LARGE + ORDERS))
        times = Counter(message.message_id for message in await wire.hear("order_dlq", LARGE))
        assert len(times) == LARGE
        assert sum(times.values()) <= 2 * LARGE
        assert len(await wire.hear("order_processed_queue", ORDERS)) >= ORDERS


async def test_below_the_narrowest_link_the_others_get_through_and_a_wider_one_heals_it(
    database_url: str,
    database: Database,
    mq_url: str,
    wire: Wire,
    narrow: NarrowWay,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with narrow.open() as port:
        slow = by_the_narrow_way(
            database_url, mq_url, port, publish_timeout_seconds=3.0, relay_lease_seconds=60
        )
        async with running(slow):
            await wire.listen("order_dlq", "order_processed_queue")
            narrow.bytes_per_second = 30_000.0  # 14 s for a large event
            await send_large_and_orders(wire)
            await eventually(lambda: heard(wire, ORDERS))
            await eventually(lambda: told_narrow(caplog))
            assert all(event.attempts == 0 for event in await rows(database, OutboxEvent))
            narrow.bytes_per_second = 100_000_000.0
            await eventually(lambda: all_published(database, 2 * LARGE + ORDERS))
        times = Counter(message.message_id for message in await wire.hear("order_dlq", LARGE))
        assert len(times) == LARGE
        # Each attempt at an event is twice as late as the one before.
        assert max(times.values()) <= 8


async def heard(wire: Wire, count: int) -> bool:
    return len(wire.heard["order_processed_queue"]) >= count


async def told_narrow(caplog: pytest.LogCaptureFixture) -> bool:
    said = logged(caplog, Action.EVENT_DEFERRED)
    return any("a narrow link" in fields["reason"] for fields in said)


def by_the_narrow_way(database_url: str, mq_url: str, port: int, **overrides: Any) -> Settings:
    there = mq_url.rsplit("@", 1)[1].split("/", 1)[0]
    url = mq_url.replace(there, f"127.0.0.1:{port}")
    return settings_for(database_url=database_url, mq_url=url, **overrides)
