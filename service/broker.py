"""A RabbitBroker that waits for its server, says why it waits, and comes back by itself.

One loop owns the life of the consuming connection: prepare, consume, notice the loss, tear down,
again. Nothing relies on a connection restoring itself: after a restore the link can be there and
the consumer gone, or the queue be another one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import aio_pika
from aio_pika.abc import AbstractConnection
from aiormq import Channel
from faststream.exceptions import FastStreamException
from faststream.rabbit import RabbitBroker, RabbitQueue

from service.explain import explain_broker
from service.link import LINK_FAILURES, loss_as_error
from service.retry import delay_after
from service.telemetry import Action, log
from service.topology import Topology

CHECK_SECONDS = 1.0
RESTORE_SECONDS = 10.0
CLOSE_SECONDS = 3.0
ANSWER_SECONDS = 3.0
# A busy broker may answer later than ANSWER_SECONDS; one that is cut off from its cluster does not.
SILENCE_SECONDS = 10.0
LONGEST_DELAY_SECONDS = 5.0

T = TypeVar("T")


class ServiceBroker(RabbitBroker):
    """FastStream's broker, kept alive. `attend()` is the loop; a supervisor runs it."""

    def __init__(
        self,
        url: str,
        *,
        broker_name: str,
        incoming: RabbitQueue,
        topology: Topology,
        connect_timeout_seconds: float,
        stop_timeout_seconds: float,
        **options: Any,
    ) -> None:
        super().__init__(
            url,
            timeout=connect_timeout_seconds,
            graceful_timeout=stop_timeout_seconds,
            on_close=[self._closed],
            logger=None,
            **options,
        )
        self._url = url
        self._name = broker_name
        self._incoming = incoming
        self._topology = topology
        self._connect_timeout = connect_timeout_seconds
        self._stop_timeout = stop_timeout_seconds
        self._ready = asyncio.Event()
        self._lost = asyncio.Event()
        self._warned = set[str]()
        self.consuming = False

    async def start(self) -> None:
        """Return once messages are consumed, however long the servers take to come."""
        await self._ready.wait()

    async def attend(
        self, *, prepare: Callable[[], Awaitable[None]], trouble: Callable[[], str | None]
    ) -> None:
        """Keep consuming until cancelled.

        Args:
            prepare: awaited before each start; returns once messages can be stored.
            trouble: asked every second; why consuming has to stop, or None.
        """
        failures = 0
        while True:
            await prepare()
            delay = 0.0
            try:
                # Told to end, it leaves the link as it is: those at hand may still finish.
                with loss_as_error():
                    await self._establish()
                failures = 0
                log(Action.CONSUMING, broker=self._name, queue=self._incoming.name)
                why = await self._until_lost(trouble)
                log(Action.CONSUMING_STOPPED, logging.WARNING, broker=self._name, why=why)
            except (*LINK_FAILURES, FastStreamException) as error:
                failures += 1
                delay = delay_after(
                    failures, first_seconds=0.5, longest_seconds=LONGEST_DELAY_SECONDS
                ).total_seconds()
                log(
                    Action.BROKER_WAITING,
                    logging.WARNING,
                    broker=self._name,
                    why=explain_broker(error),
                    retry_in_seconds=delay,
                )
            await self.tear_down()
            await asyncio.sleep(delay)

    async def tear_down(self) -> None:
        """Close the link first, so that nothing waits for an answer on it, then stop the rest."""
        self.consuming = False
        with contextlib.suppress(*LINK_FAILURES):
            if self._connection is not None:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._connection.close()
        with contextlib.suppress(*LINK_FAILURES, ExceptionGroup):
            async with asyncio.timeout(CLOSE_SECONDS):
                await super().stop()

    async def stop(self, *_: Any) -> None:
        """Take no more messages, finish those at hand, and close, all within a deadline."""
        self.consuming = False
        with contextlib.suppress(*LINK_FAILURES, ExceptionGroup):
            async with asyncio.timeout(self._stop_timeout + CLOSE_SECONDS):
                await super().stop()

    async def _establish(self) -> None:
        async with asyncio.timeout(self._connect_timeout * 2):
            connection = await self._connect_plainly()
            async with connection:
                await self._ensure_topology(connection)
            self._lost.clear()
            await super().start()
        self.consuming = True
        self._ready.set()

    async def _connect_plainly(self) -> AbstractConnection:
        return await aio_pika.connect(
            self._url,
            timeout=self._connect_timeout,
            ssl_context=self._connection_kwargs.get("ssl_context"),
        )

    async def _ensure_topology(self, connection: AbstractConnection) -> None:
        for mismatch in await self._topology.ensure(connection):
            if mismatch.queue in self._warned:
                continue
            self._warned.add(mismatch.queue)
            log(
                Action.QUEUE_DIFFERS,
                logging.WARNING,
                queue=mismatch.queue,
                difference=mismatch.difference,
                lost=self._topology.what_is_lost(mismatch),
            )

    async def _until_lost(self, trouble: Callable[[], str | None]) -> str:
        """Wait until consuming has ended or has to; returns why."""
        next_restore: float | None = time.monotonic() + RESTORE_SECONDS
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._lost.wait()
                return "the link to the broker was lost"
            if (why := trouble()) is not None:
                return why
            if not await self._has_consumer() and not self._lost.is_set():
                return "the broker ended the consumer: the queue may have been deleted"
            if next_restore is not None and time.monotonic() >= next_restore:
                try:
                    ours = await self._restore_topology()
                except TimeoutError:
                    return f"the broker has not answered for {SILENCE_SECONDS:g} s"
                next_restore = time.monotonic() + RESTORE_SECONDS if ours else None

    async def _restore_topology(self) -> bool:
        """Whether to do so again later.

        Raises:
            TimeoutError: no answer. A node that is cut off from its cluster is like that: the link
                to it is alive, and nothing comes over it.
        """
        try:
            async with asyncio.timeout(SILENCE_SECONDS):
                with loss_as_error():
                    return self._connection is None or await self._topology.restore(
                        self._connection
                    )
        except TimeoutError:
            raise
        except LINK_FAILURES:
            return True  # whether the link is lost, the consumer will tell

    async def _has_consumer(self) -> bool:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                with loss_as_error():
                    # The declarer remembers the subscriber's queue, so this declares nothing.
                    queue = await self.declare_queue(self._incoming)
                    channel = await queue.channel.get_underlay_channel()
        except LINK_FAILURES:
            return False
        return not channel.is_closed and bool(cast("Channel", channel).consumers)

    async def answers(self) -> bool:
        """Whether the broker does something for us right now: a round trip, asked and answered."""
        return await self.waiting() is not None

    async def reachable(self) -> bool:
        """Whether the broker lets us in, also while we consume nothing for another reason."""

        async def enter() -> bool:
            async with await self._connect_plainly():
                return True

        return await self.answers() or bool(await _answer(enter))

    async def waiting(self) -> int | None:
        """How many messages wait in the incoming queue; None where the broker does not say."""
        connection = self._connection
        if connection is None or not self.consuming:
            return None

        async def count() -> int | None:
            async with connection.channel(publisher_confirms=False) as channel:
                queue = await channel.declare_queue(self._incoming.name, passive=True)
                return queue.declaration_result.message_count

        return await _answer(count)

    async def _closed(self, *_: Any) -> None:
        self._lost.set()


async def _answer(question: Callable[[], Awaitable[T]]) -> T | None:
    """What the broker answers, or None where it does not in time or the link is lost meanwhile."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            with loss_as_error():
                return await question()
    except LINK_FAILURES:
        return None
