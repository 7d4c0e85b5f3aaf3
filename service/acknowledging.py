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
from collections.abc import Sequence
from types import TracebackType
from typing import Any, ClassVar, Protocol
from weakref import WeakKeyDictionary

from faststream import BaseMiddleware
from faststream.exceptions import RejectMessage

from service.link import LINK_FAILURES


class Settleable(Protocol):
    """The part of a received message that says what became of it."""

    @property
    def delivery_tag(self) -> int | None: ...

    async def ack(self, multiple: bool = False) -> None: ...

    async def nack(self, multiple: bool = False, requeue: bool = True) -> None: ...

    async def reject(self, requeue: bool = False) -> None: ...


class Acknowledgements:
    """Of one channel, whose delivery tags are 1, 2, 3 … in the order of delivery."""

    def __init__(self) -> None:
        self._finished: list[Settleable] = []
        self._gathering = False
        self._sending = asyncio.Lock()
        self._settled_to = 0
        self._settled_beyond = set[int]()

    async def acknowledge(self, message: Settleable) -> None:
        """Acknowledge, together with what else finishes in this turn of the event loop.

        Returns at once where another one, still at hand, will do it for both.
        """
        self._finished.append(message)
        if self._gathering:
            return
        self._gathering = True
        try:
            await asyncio.sleep(0)
        finally:
            self._gathering = False
        async with self._sending:
            finished, self._finished = self._finished, []
            await self._send(sorted(finished, key=_tag))

    async def give_back(self, message: Settleable) -> None:
        async with self._sending:
            await message.nack()
            self._settle(message)

    async def reject(self, message: Settleable, *, requeue: bool) -> None:
        async with self._sending:
            await message.reject(requeue=requeue)
            self._settle(message)

    def _settle(self, message: Settleable) -> None:
        self._settled_beyond.add(_tag(message))
        while self._settled_to + 1 in self._settled_beyond:
            self._settled_to += 1
            self._settled_beyond.remove(self._settled_to)

    async def _send(self, finished: Sequence[Settleable]) -> None:
        for message in finished:
            self._settle(message)
        run = [message for message in finished if _tag(message) <= self._settled_to]
        if run:
            await run[-1].ack(multiple=True)
        for message in finished[len(run) :]:
            await message.ack()


def _tag(message: Settleable) -> int:
    return message.delivery_tag or 0


class Acknowledging(BaseMiddleware[Any, Any]):
    """Settles a message once its handler, and what wraps it in a subclass, has ended, by how.

    Returned: acknowledged. `RejectMessage`: rejected as it says. Cancelled, because the link is
    gone or the process ends: nothing, the broker keeps it. Any other error: given back.
    """

    _of_channel: ClassVar[WeakKeyDictionary[Any, Acknowledgements]] = WeakKeyDictionary()

    async def on_receive(self) -> None:
        try:
            channel = self.msg.channel
        except LINK_FAILURES:
            self._acknowledgements = Acknowledgements()
            return
        known = self._of_channel.get(channel)
        if known is None:
            known = self._of_channel[channel] = Acknowledgements()
        self._acknowledgements = known

    async def after_processed(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> bool:
        """Returns whether the error ends here."""
        with contextlib.suppress(*LINK_FAILURES):
            match exc_val:
                case None:
                    await self._acknowledgements.acknowledge(self.msg)
                case RejectMessage():
                    await self._acknowledgements.reject(self.msg, **exc_val.extra_options)
                case Exception():
                    await self._acknowledgements.give_back(self.msg)
        return isinstance(exc_val, RejectMessage)
