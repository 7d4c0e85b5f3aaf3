"""A RabbitBroker that waits for its server, says why it waits, and comes back by itself.

One loop owns the life of the consuming link: prepare, consume, notice the loss, tear down, again.

Invariants:
- a link that was given up is never used again: its socket is closed before the next one is opened;
- nothing restores itself: after a restore the link can be there and the consumer gone, or the
  queue be another one;
- only the current link can say that the link is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, TypeVar, cast

from aiormq import Channel
from faststream.exceptions import FastStreamException
from faststream.rabbit import RabbitBroker, RabbitQueue

from service.backoff import delay_after
from service.driver_errors import explain_broker
from service.observability import Action, log
from service.rabbitmq import declaration
from service.rabbitmq.connection import LINK_FAILURES, Link, loss_as_error, retrieve, told_to_end
from service.rabbitmq.topology import Topology

CHECK_SECONDS = 1.0
RESTORE_SECONDS = 10.0
ANSWER_SECONDS = 3.0
# At the start a broker that does not answer by then is waited for while the service runs.
EXAMINE_SECONDS = 3.0
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
        drain_seconds: float,
        leave_seconds: float,
        **options: Any,
    ) -> None:
        super().__init__(
            url,
            timeout=connect_timeout_seconds,
            graceful_timeout=drain_seconds,
            logger=None,
            **options,
        )
        self._url = url
        self._name = broker_name
        self._incoming = incoming
        self._topology = topology
        self._connect_timeout = connect_timeout_seconds
        self._drain_seconds = drain_seconds
        self._leave_seconds = leave_seconds
        self._ready = asyncio.Event()
        self._lost = asyncio.Event()
        self._warned = set[str]()
        self._link: Link | None = None
        self._renewal: str | None = None
        self._counting: asyncio.Task[int | None] | None = None
        self.consuming = False
        self.preparing = False
        """Whether the loop waits until messages can be stored, however long that takes."""
        self.turns = 0
        """Grows while the loop moves."""
        self.waits_for: str | None = None
        """Why nothing is consumed, and since when: for operators."""

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

        Raises:
            TopologyRefusedError: what is at the broker would lose orders, or have them go round.
        """
        failures = 0
        await self.tear_down()  # of a loop that was ended before this one
        while True:
            self.turns += 1
            self.preparing = True
            await prepare()
            self.preparing = False
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
                why = explain_broker(error)
                log(
                    Action.BROKER_WAITING,
                    logging.WARNING,
                    broker=self._name,
                    why=why,
                    retry_in_seconds=delay,
                )
            except BaseException:
                if not told_to_end():
                    await self.tear_down()
                raise
            self._say(why)
            await self.tear_down()
            await asyncio.sleep(delay)

    async def examine(self) -> None:
        """Before the start: whether what is at the broker can be used, where it answers soon.

        Raises:
            TopologyRefusedError: it cannot.
        """
        with contextlib.suppress(*LINK_FAILURES):
            async with asyncio.timeout(min(EXAMINE_SECONDS, self._connect_timeout)):
                with loss_as_error():
                    async with await self._open_link() as link:
                        await self._ensure_topology(link)

    def renew(self, why: str) -> None:
        """Have the loop leave its link and open another one."""
        self._renewal = why

    async def tear_down(self, within_seconds: float | None = None) -> None:
        """Leave the link for good. Its unacknowledged messages are the broker's again."""
        link = self._forget()
        if link is not None:
            await link.end(within_seconds)

    async def stop(self, *_: Any) -> None:
        """Take no more messages, finish those at hand, and close.

        Takes `drain_seconds` and `leave_seconds` together at most.
        """
        self.consuming = False
        try:
            with contextlib.suppress(*LINK_FAILURES, ExceptionGroup):
                async with asyncio.timeout(self._drain_seconds + self._leave_seconds / 2):
                    await super().stop()
        finally:
            await self.tear_down(self._leave_seconds / 2)

    def _forget(self) -> Link | None:
        """Drop every reference to the link, so that the next start cannot use it; returns it."""
        self.consuming = False
        link, self._link = self._link, None
        self._counting = None
        self._connection = self._channel = None
        for subscriber in self.subscribers:
            subscriber.running = False  # what still comes in over the old link is not handled
        self.running = False
        self.config.disconnect()
        return link

    async def _connect(self) -> Any:
        """FastStream's way to its connection: a link of ours, or none at all."""
        link = self._link = await self._open_link()
        try:
            link.close_callbacks.add(lambda *_: self._lost_link(link))
            self.config.connect(cast("Any", link))
            self._channel = await self.config.channel_manager.get_channel()
        except BaseException:
            await self.tear_down()
            raise
        return link

    def _lost_link(self, link: Link) -> None:
        if link is self._link:
            self._lost.set()

    def _say(self, why: str) -> None:
        if self.waits_for is None:
            self.waits_for = f"{why}, since {datetime.now(UTC).isoformat(timespec='seconds')}"

    async def _establish(self) -> None:
        async with asyncio.timeout(self._connect_timeout * 2):
            async with await self._open_link() as link:
                await self._ensure_topology(link)
            self._lost.clear()
            self._renewal = None
            await super().start()
        self.consuming = True
        self.waits_for = None
        self._ready.set()

    async def _open_link(self) -> Link:
        return await Link.open(
            self._url,
            tls=self._connection_kwargs.get("ssl_context"),
            timeout_seconds=self._connect_timeout,
        )

    async def _ensure_topology(self, connection: Link) -> None:
        for difference in await declaration.ensure(self._topology, connection):
            if difference.name in self._warned:
                continue
            self._warned.add(difference.name)
            exchange = difference.kind == "exchange"
            log(
                Action.EXCHANGE_DIFFERS if exchange else Action.QUEUE_DIFFERS,
                logging.WARNING,
                **{difference.kind: difference.name},
                difference=difference.words,
                lost=difference.lost,
            )

    async def _until_lost(self, trouble: Callable[[], str | None]) -> str:
        """Wait until consuming has ended or has to; returns why."""
        restoring = asyncio.create_task(self._keep_topology())
        try:
            while True:
                self.turns += 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(CHECK_SECONDS):
                        await self._lost.wait()
                    return "the link to the broker was lost"
                if (why := self._renewal or trouble()) is not None:
                    return why
                if not await self._has_consumer() and not self._lost.is_set():
                    return "the broker ended the consumer: the queue may have been deleted"
                if restoring.done():
                    restoring.result()
        except TimeoutError:
            return f"the broker has not answered for {SILENCE_SECONDS:g} s"
        finally:
            restoring.cancel()

    async def _keep_topology(self) -> None:
        """Restore what others delete, every `RESTORE_SECONDS`, for as long as that is ours to do.

        Raises:
            TimeoutError: the broker fell silent. A node that is cut off from its cluster is like
                that: the link to it is alive, and nothing comes over it.
        """
        ours = True
        while (link := self._link) is not None:
            await asyncio.sleep(RESTORE_SECONDS)
            try:
                with loss_as_error():
                    if ours:
                        restoring = declaration.restore(self._topology, link)
                        ours = await link.answered(restoring, within_seconds=SILENCE_SECONDS)
                    else:
                        counting = self._count_waiting(link)
                        await link.answered(counting, within_seconds=SILENCE_SECONDS)
            except TimeoutError:
                raise
            except LINK_FAILURES:
                continue  # whether the link is lost, the consumer will tell

    async def _has_consumer(self) -> bool:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                with loss_as_error():
                    # The declarer remembers the subscriber's queue, so this declares nothing.
                    queue = await self.declare_queue(self._incoming)
                    channel = await queue.channel.get_underlay_channel()
        except LINK_FAILURES:
            return False
        return not channel.is_closed and bool(cast("Channel", channel).consumers)

    async def answers(self) -> bool:
        """Whether the broker does something for us: it answers over this very link, or delivers."""
        if await self.waiting() is not None:
            return True
        link = self._link
        return link is not None and self.consuming and link.delivered_within(ANSWER_SECONDS)

    async def reachable(self) -> bool:
        """Whether the broker lets us in, also while we consume nothing for another reason."""

        async def enter() -> bool:
            async with await self._open_link():
                return True

        return await self.answers() or bool(await _answer(enter))

    async def waiting(self) -> int | None:
        """How many messages wait in the incoming queue; None where the broker does not say."""
        link = self._link
        if link is None or not self.consuming:
            return None
        if self._counting is None or self._counting.done():
            # Not cancelled when nobody waits any more: the client would close the channel.
            self._counting = asyncio.create_task(self._count_waiting(link))
            self._counting.add_done_callback(retrieve)
        done, _ = await asyncio.wait([self._counting], timeout=ANSWER_SECONDS)
        if not done or self._counting.cancelled() or self._counting.exception() is not None:
            return None
        return self._counting.result()

    async def _count_waiting(self, link: Link) -> int | None:
        async with link.channel(publisher_confirms=False) as channel:
            queue = await channel.declare_queue(self._incoming.name, passive=True)
            return queue.declaration_result.message_count


async def _answer(question: Callable[[], Awaitable[T]]) -> T | None:
    """What the broker answers, or None where it does not in time or the link is lost meanwhile."""
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            with loss_as_error():
                return await question()
    except LINK_FAILURES:
        return None
