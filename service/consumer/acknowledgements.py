"""Acknowledgements, together: one frame for the messages of a batch, instead of one for each.

An acknowledgement by itself costs a sixth of all that consuming a message costs. Messages that are
committed together finish in the same turn of the event loop, and are acknowledged together.

Invariants:
- a message is acknowledged only after its own handler has returned;
- an acknowledgement of many covers an unbroken run of delivery tags, counted from the channel's
  first, of which each one is settled: whatever was delivered and is still at hand ends the run;
- what has finished behind such a gap is acknowledged one by one: nothing waits for another;
- frames of one channel go out one after the other, or a run could cover a message whose own
  acknowledgement is still to be sent: the broker closes the channel over a tag it no longer knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from aiormq.abc import AbstractChannel
from faststream import BaseMiddleware
from faststream.exceptions import RejectMessage

from service.rabbitmq.connection import LINK_FAILURES


@dataclass(frozen=True, slots=True)
class Received:
    """A message without its body, which must not wait in memory for its acknowledgement."""

    channel: AbstractChannel
    delivery_tag: int

    async def ack(self, multiple: bool = False) -> None:
        await self.channel.basic_ack(self.delivery_tag, multiple=multiple)

    async def nack(self, multiple: bool = False, requeue: bool = True) -> None:
        await self.channel.basic_nack(self.delivery_tag, multiple=multiple, requeue=requeue)

    async def reject(self, requeue: bool = False) -> None:
        await self.channel.basic_reject(self.delivery_tag, requeue=requeue)


class Acknowledgements:
    """Of one channel, whose delivery tags are 1, 2, 3 … in the order of delivery."""

    def __init__(self) -> None:
        self._finished: list[Received] = []
        self._last: asyncio.Task[None] | None = None
        self._gathering = False
        self._sending = asyncio.Lock()
        self._settled_to = 0
        self._settled_beyond = set[int]()

    async def acknowledge(self, message: Received) -> None:
        """Acknowledge, together with what else finishes in this turn of the event loop.

        Returns at once where another one, still at hand, will do it for both.
        """
        self._finished.append(message)
        if self._gathering:
            return
        self._gathering = True
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            # The others count on this one. On a closed channel nothing is sent, and nothing kept.
            self._last = asyncio.create_task(self._send_after_cancellation())
            raise
        finally:
            self._gathering = False
        await self._send_finished()

    async def _send_finished(self) -> None:
        async with self._sending:
            finished, self._finished = self._finished, []
            await self._send(sorted(finished, key=lambda message: message.delivery_tag))

    async def _send_after_cancellation(self) -> None:
        with contextlib.suppress(*LINK_FAILURES):
            await self._send_finished()

    async def give_back(self, message: Received) -> None:
        async with self._sending:
            await message.nack()
            self._settle(message)

    async def reject(self, message: Received, *, requeue: bool) -> None:
        async with self._sending:
            await message.reject(requeue=requeue)
            self._settle(message)

    async def received_by_the_broker(
        self, tags: Iterable[int], ask: Callable[[], Awaitable[object]]
    ) -> list[int]:
        """Those of `tags` that were settled, after `ask` has had an answer on this channel.

        Frames of a channel are handled in order, so what was settled before is settled there, too.
        """
        async with self._sending:  # what is settled by then was sent
            settled = [each for each in tags if self._is_settled(each)]
        if settled:
            await ask()
        return settled

    def _is_settled(self, tag: int) -> bool:
        return tag <= self._settled_to or tag in self._settled_beyond

    def _settle(self, message: Received) -> None:
        self._settled_beyond.add(message.delivery_tag)
        while self._settled_to + 1 in self._settled_beyond:
            self._settled_to += 1
            self._settled_beyond.remove(self._settled_to)

    async def _send(self, finished: Sequence[Received]) -> None:
        for message in finished:
            self._settle(message)
        run = [message for message in finished if message.delivery_tag <= self._settled_to]
        if run:
            await run[-1].ack(multiple=True)
        for message in finished[len(run) :]:
            await message.ack()


class AtHand:
    """The messages that were received and are not settled, the oldest first."""

    def __init__(self) -> None:
        self._messages: dict[int, None] = {}

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def oldest(self) -> int | None:
        """A number that stands for the oldest message; None where there is none."""
        return next(iter(self._messages), None)

    def add(self, number: int) -> None:
        self._messages[number] = None

    def remove(self, number: int) -> None:
        self._messages.pop(number, None)


class Acknowledging(BaseMiddleware[Any, Any]):
    """Settles a message once its handler, and what wraps it in a subclass, has ended, by how.

    Returned: acknowledged. `RejectMessage`: rejected as it says. Cancelled, because the link is
    gone or the process ends: nothing, the broker keeps it. Any other error: given back.
    """

    at_hand: ClassVar[AtHand] = AtHand()
    _of_channel: ClassVar[WeakKeyDictionary[Any, Acknowledgements]] = WeakKeyDictionary()
    _numbers: ClassVar[Iterator[int]] = itertools.count()

    async def on_receive(self) -> None:
        self._number = next(self._numbers)
        self.at_hand.add(self._number)
        self._received: Received | None = None
        # On a channel that is gone nothing is settled; nor in process, where nothing is kept.
        with contextlib.suppress(*LINK_FAILURES):
            self._received = Received(self.msg.channel, self.msg.delivery_tag)

    @classmethod
    def of(cls, channel: Any) -> Acknowledgements:
        """The one that settles all that this channel delivers."""
        known = cls._of_channel.get(channel)
        if known is None:
            known = cls._of_channel[channel] = Acknowledgements()
        return known

    async def after_processed(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> bool:
        """Returns whether the error ends here."""
        try:
            if self._received is not None:
                await self._settle(self._received, exc_val)
        finally:
            self.at_hand.remove(self._number)
        # Without a tag it came from the in-process broker, which keeps nothing: its sender, who
        # waits in `publish()`, gets the error and can send it again.
        return isinstance(exc_val, RejectMessage) and self.msg.delivery_tag is not None

    async def _settle(self, received: Received, error: BaseException | None) -> None:
        acknowledgements = self.of(received.channel)
        with contextlib.suppress(*LINK_FAILURES):
            match error:
                case None:
                    await acknowledgements.acknowledge(received)
                case RejectMessage():
                    await acknowledgements.reject(received, **error.extra_options)
                case Exception():
                    await acknowledgements.give_back(received)
