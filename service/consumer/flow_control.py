"""How much of what the broker delivers is held in memory: so many bytes, not only messages.

A prefetch counts messages, and 200 may be 3 GiB. Here a message is read from the link only when
there is room for it. Until then the link is not read, and TCP holds the broker back.

Invariants:
- bodies and headers in hand are within the budget, or are one message alone;
- the link is never unread for longer than `ROOM_SECONDS`: heartbeats and answers come through, and
  neither side takes the other for dead;
- what there was no room for by then, as in an outage of the database, is put aside: its bytes are
  read and dropped, the broker still counts it as delivered, and has it back once there is room.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from weakref import WeakKeyDictionary

from aiormq import Channel
from pamqp import commands
from pamqp.header import ContentHeader

from service.consumer.acknowledgements import Acknowledging, Received
from service.observability import Action, log
from service.rabbitmq.connection import LINK_FAILURES, note_delivery

# Below the deadlines of all else that is asked on the link (service.rabbitmq.broker).
ROOM_SECONDS = 2.0
# In the link's URL, where its budget stands.
BUDGET = "hold_bytes"


class Budget:
    """Bytes of one channel that may be in hand."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._freed = asyncio.Event()

    def fits(self, size: int) -> bool:
        """Whether there is room; for one that is too large for any there is when it is alone."""
        return not self._held or self._held + size <= self._limit

    async def room(self, size: int) -> None:
        """Return once there is room for a message of `size` bytes."""
        while not self.fits(size):
            self._freed.clear()
            await self._freed.wait()

    async def room_soon(self, size: int) -> bool:
        """Whether there is room now, or becomes so within `ROOM_SECONDS`."""
        if self.fits(size):
            return True
        try:
            async with asyncio.timeout(ROOM_SECONDS):
                await self.room(size)
        except TimeoutError:
            return False
        return True

    def hold(self, size: int) -> None:
        self._held += size

    def free(self, size: int) -> None:
        self._held -= size
        self._freed.set()


def hold_within_budgets() -> None:
    """Have every link of this process whose URL names a budget keep to it; idempotent."""
    Channel._on_deliver_frame = _on_deliver_frame  # type: ignore[method-assign, assignment]  # noqa: SLF001


_as_the_client_does = Channel._on_deliver_frame  # noqa: SLF001
_budgets: WeakKeyDictionary[Channel, Budget] = WeakKeyDictionary()


async def _on_deliver_frame(channel: Channel, frame: commands.Basic.Deliver) -> None:
    """Read a delivery and start its consumer: the client's own, with the budget in between."""
    limit = channel.connection.url.query.get(BUDGET)
    if limit is None:
        await _as_the_client_does(channel, frame)
        return
    budget = _budgets.get(channel)
    if budget is None:
        budget = _budgets[channel] = Budget(int(limit))
    note_delivery(channel.connection)
    header: Any = await channel._get_frame()  # noqa: SLF001
    size = _size_of(header)
    if not await budget.room_soon(size):
        await _drop_content(channel, header)
        channel.create_task(_put_aside(channel, frame, budget, size))
        return
    message = await channel._read_content(frame, header)  # noqa: SLF001
    consumer = channel.consumers.get(frame.consumer_tag or "")
    if consumer is not None:
        budget.hold(size)
        channel.create_task(_consume(consumer, message, budget, size))


async def _consume(consumer: Any, message: Any, budget: Budget, size: int) -> None:
    try:
        await consumer(message)
    finally:
        budget.free(size)


async def _put_aside(
    channel: Channel, frame: commands.Basic.Deliver, budget: Budget, size: int
) -> None:
    log(Action.PUT_ASIDE, logging.WARNING, bytes=size)
    await budget.room(size)
    try:
        acknowledgements = Acknowledging.of(channel)
        await acknowledgements.give_back(Received(channel, frame.delivery_tag or 0))
    except LINK_FAILURES:
        return  # the broker has it back already


def _size_of(header: ContentHeader) -> int:
    return header.body_size + int(getattr(header.properties.headers, "wire_bytes", 0))


async def _drop_content(channel: Channel, header: ContentHeader) -> None:
    left = header.body_size
    while left > 0:
        frame: Any = await channel._get_frame()  # noqa: SLF001
        left -= len(frame.value)
