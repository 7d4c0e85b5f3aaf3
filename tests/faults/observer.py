"""An independent subscriber of the events exchange: what it acknowledged, it has on disk."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aio_pika import DeliveryMode, ExchangeType
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from tests.faults.contract import LARGEST_STORED
from tests.faults.journal import Journal, Observed
from tests.faults.link import LINK_FAILURES, RETRY_SECONDS, Link, told_to_end

QUEUE = "faults_observer"
EVERYTHING = "order.*"
PREFETCH = 500
SET_UP_SECONDS = 10.0


class Observer:
    """Hears all that is published to the exchange, on a durable quorum queue of its own.

    A broker that goes away is waited for; what was not acknowledged then comes again.
    """

    def __init__(self, url: str, exchange: str, journal: Journal[Observed]) -> None:
        self._link = Link(url, "faults observer")
        self._exchange = exchange
        self._journal = journal
        self.listening = asyncio.Event()
        self.seen: set[str | None] = set()
        """The ids of all events that are on disk, but for bodies too large for the outbox."""

    @property
    def heard(self) -> int:
        """How many different events of the outbox are on disk."""
        return len(self.seen)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Listening when the block starts."""
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(self._keep_listening())
            await self.listening.wait()
            try:
                yield
            finally:
                listening.cancel()
        await self._link.close()

    async def _keep_listening(self) -> None:
        while True:
            channel = await self._link.open()
            try:
                await self._listen(channel)
                self.listening.set()
                await channel.closed()
            except LINK_FAILURES:
                await asyncio.sleep(RETRY_SECONDS)
            except asyncio.CancelledError:
                if told_to_end():
                    raise
            finally:
                self.listening.clear()

    async def _listen(self, channel: AbstractChannel) -> None:
        async with asyncio.timeout(SET_UP_SECONDS):
            await channel.set_qos(prefetch_count=PREFETCH)
            await channel.declare_exchange(self._exchange, ExchangeType.TOPIC, durable=True)
            queue = await channel.declare_queue(
                QUEUE, durable=True, arguments={"x-queue-type": "quorum"}
            )
            await queue.bind(self._exchange, routing_key=EVERYTHING)
            await queue.consume(self._take)

    async def _take(self, message: AbstractIncomingMessage) -> None:
        await self._journal.append(observed(message))
        if len(message.body) <= LARGEST_STORED:
            self.seen.add(message.message_id)
        with suppress(*LINK_FAILURES):
            await message.ack()


def observed(message: AbstractIncomingMessage) -> Observed:
    return Observed(
        event_id=message.message_id,
        type=message.type,
        routing_key=message.routing_key or "",
        payload=message.body,
        headers=dict(message.headers),
        correlation_id=message.correlation_id,
        content_type=message.content_type,
        persistent=message.delivery_mode is DeliveryMode.PERSISTENT,
        redelivered=bool(message.redelivered),
    )
