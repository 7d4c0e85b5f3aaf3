"""Which recorded dead letters may be delivered again, and which may not any more.

A message that cannot become an order has no identity of its own, and AMQP gives a delivery none. So
a redelivery is matched with a dead letter of the same digest. Only these may be matched:

- none whose message this process holds: while its link lives, the broker gives it to nobody else;
- none whose acknowledgement reached the broker: it is marked with `acknowledged_at`, once the
  channel has answered something that was asked after the acknowledgement.

What is left was recorded by a process or over a link that ended in between, or by another process
within the last seconds. The latter is marked by that process soon, so a redelivery waits for
`SETTLING_SECONDS` before it is matched.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy.exc import SQLAlchemyError

from db import dead_letters
from db.engine import Database
from service.consumer.acknowledgements import Acknowledging
from service.driver_errors import explain_database
from service.observability import Action, log
from service.rabbitmq.connection import LINK_FAILURES, answered, loss_as_error
from service.rabbitmq.delivery import Delivery

TURN_SECONDS = 0.25
# Above two turns and a write, after which a process that lives has marked what it acknowledged.
SETTLING_SECONDS = 5.0
ANSWER_SECONDS = 10.0


class _Letters:
    """The dead letters of one channel, by the delivery tag of their message."""

    def __init__(self) -> None:
        self.held: dict[int, str] = {}
        self.acknowledged: list[str] = []
        """To be marked at the next turn, if the link lives that long."""


class Recorded:
    """The dead letters whose messages came to this process over links that still live."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._channels: WeakKeyDictionary[Any, _Letters] = WeakKeyDictionary()
        self._failing = False

    def hold(self, delivery: Delivery, dead_letter_id: str) -> None:
        """Note at its commit that this dead letter stands for this delivery."""
        try:
            channel, tag = delivery.raw.channel, delivery.raw.delivery_tag
        except LINK_FAILURES:
            return  # the link is gone: the message may be delivered again
        if tag is not None and not channel.is_closed:
            self._channels.setdefault(channel, _Letters()).held[tag] = dead_letter_id

    def held(self) -> set[str]:
        """The dead letters that no redelivery can stand for now."""
        open_channels = [
            letters for channel, letters in self._channels.items() if not channel.is_closed
        ]
        return {
            dead_letter_id
            for letters in open_channels
            for dead_letter_id in (*letters.held.values(), *letters.acknowledged)
        }

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TURN_SECONDS)
            await self.run_once()

    async def run_once(self) -> int:
        """Mark what the last turn found acknowledged, then look again; returns how many."""
        found = list(self._channels.items())
        living = [(channel, letters) for channel, letters in found if not channel.is_closed]
        marked = await self._mark([letters for _, letters in living])
        for channel, letters in living:
            await self._look_for_acknowledged(channel, letters)
        return marked

    async def _mark(self, living: list[_Letters]) -> int:
        ids = [dead_letter_id for letters in living for dead_letter_id in letters.acknowledged]
        if not ids:
            return 0
        try:
            async with self._database.transaction() as connection:
                await dead_letters.mark_acknowledged(connection, ids)
        except (SQLAlchemyError, TimeoutError, OSError) as error:
            if not self._failing:
                log(Action.MARKING_FAILED, logging.WARNING, why=explain_database(error))
            self._failing = True
            return 0
        self._failing = False
        for letters in living:
            letters.acknowledged.clear()
        return len(ids)

    async def _look_for_acknowledged(self, channel: Any, letters: _Letters) -> None:
        acknowledgements = Acknowledging.of(channel)

        async def ask() -> None:
            question = channel.flow(active=True)
            await answered(channel.connection, question, within_seconds=ANSWER_SECONDS)

        try:
            with loss_as_error():
                tags = await acknowledgements.received_by_the_broker(list(letters.held), ask)
        except LINK_FAILURES:
            return
        letters.acknowledged += [letters.held.pop(tag) for tag in tags]
