"""Processes a delivery inside its own handler when no background tasks run.

This is the case under FastStream's test broker if the application's lifespan was not entered:

    async with TestRabbitBroker(app.broker) as broker:
        await broker.publish(order, "order_created_queue")

`publish()` returns once the order is stored and, with the in-process broker, its event published.
With a database or a broker that is configured, the tables must be there already, and the events
stay in the outbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from db.engine import Database
from service.consumer.batcher import Intake
from service.consumer.unit_of_work import Outcome
from service.inbound import Candidate, Refused
from service.outbox.relay import Relay

POLL_SECONDS = 0.01


class Inline:
    """Submits to intake; without a lifespan it also does what the background tasks would."""

    def __init__(
        self,
        intake: Intake,
        relay: Relay,
        database: Database,
        *,
        prepare: Callable[[], Awaitable[None]],
        publishes: bool,
    ) -> None:
        """
        Args:
            prepare: awaited before the first delivery; makes the tables, where that is ours to do.
            publishes: whether events go out as well, to the in-process broker.
        """
        self._intake = intake
        self._relay = relay
        self._database = database
        self._prepare = prepare
        self._publishes = publishes
        self._deciding = asyncio.Lock()
        self._publishing = asyncio.Lock()
        self._publisher: asyncio.Task[object] | None = None
        self._prepared = False
        self._under_way = 0
        self.in_background = False
        """Whether the lifespan was entered: then intake and relay run by themselves."""

    async def submit(self, subject: Candidate | Refused) -> Outcome:
        """Decide and store `subject`; raises what `Intake.submit()` raises."""
        if self.in_background:
            return await self._intake.submit(subject)
        self._under_way += 1
        try:
            async with self._deciding:
                if not self._prepared:
                    await self._prepare()
                    self._prepared = True
                outcome = await self._decide(subject)
            if self._publishes:
                await self._publish()
        finally:
            self._under_way -= 1
            if not self._under_way:
                await self._database.dispose()
        return outcome

    async def _decide(self, subject: Candidate | Refused) -> Outcome:
        submitting = asyncio.create_task(self._intake.submit(subject))
        try:
            while not submitting.done():
                await asyncio.wait([submitting], timeout=POLL_SECONDS)
                await self._intake.run_once()
        finally:
            submitting.cancel()
        return submitting.result()

    async def _publish(self) -> None:
        """Publish until nothing is left, what the subscribers of these events send included."""
        if self._publisher is asyncio.current_task():
            return  # one of them sends: what comes of it is published when it is through
        async with self._publishing:
            self._publisher = asyncio.current_task()
            try:
                while (await self._relay.run_once()).claimed or self._relay.busy:
                    pass
            finally:
                self._publisher = None
