"""Drains the outbox to the broker: claim, publish with confirms, complete.

Invariants:
- an event counts as published only after the broker's confirm for it;
- only the holder of the lease completes, retries or parks; a relay that overslept changes nothing;
- what fails for the broker's sake costs an event no attempt;
- events of one aggregate are claimed from the earliest on, and published one after the other: an
  event that fails or is parked holds the later ones of its aggregate back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from db import outbox
from db.engine import Database
from db.failures import Failure, classify
from service.backoff import delay_after
from service.domain.errors import BrokerAwayError
from service.driver_errors import explain_database
from service.observability import Action, Metrics, log
from service.outbox.cleaner import Purge
from service.outbox.completer import Batch, Completer, Counts
from service.outbox.envelope import new_id
from service.outbox.handover import Handover
from service.outbox.publisher import Confirmed, Deferred, Publisher, PublishOutcome

# So much is under way at once: at the narrowest link that is served (1 MiB in the time allowed for
# a confirm) the first confirms come in time, and what breaks off costs few repeats.
MAX_ROUND_BYTES = 1024 * 1024
# A claim that finds more than this is followed by a smaller one.
MAX_CLAIM_BYTES = 16 * 1024 * 1024
# Between attempts to write the last outcomes, once the relay was told to stop.
STOPPING_PAUSE_SECONDS = 0.25


class Relay:
    """One relay. Several may work on one outbox, in this process or in others."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        metrics: Metrics,
        handover: Handover,
        *,
        completer: Completer,
        purge: Purge,
        batch_size: int,
        lease_seconds: float,
        poll_seconds: float,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._metrics = metrics
        self._handover = handover
        self._completer = completer
        completer.on_settled = self._settled
        self._purge = purge
        self._batch_size = self._round_limit = self._claim_limit = batch_size
        self._lease_seconds = lease_seconds
        self._poll_seconds = poll_seconds
        self._next_claim = 0.0
        self._owes_claim = True
        self._stopping = False
        self._missed = False
        self.last_success: float | None = None
        """When it last published something or found nothing to publish, on the monotonic clock."""
        self._busy = False
        self.running = False
        self.steps = 0
        """Grows whenever a step has ended: a claim, a publication, a write, a wait."""
        self.waits_for: str | None = None
        """Why nothing is published though there is something, for operators."""

    @property
    def busy(self) -> bool:
        """Whether it has something at hand that is worth waiting for."""
        return self._busy or self._holds_something

    @property
    def _holds_something(self) -> bool:
        """Whether something is still to be published, or to be written down."""
        return bool(len(self._handover) or self._completer.unwritten)

    def stop(self) -> None:
        """Finish what is at hand and end `run()`."""
        self._stopping = True
        self._handover.close()

    async def close(self) -> None:
        """Close the link to the broker; the next run opens it again."""
        await self._publisher.close()

    async def run(self) -> None:
        """Drain until stopped, gently when idle, with backoff while a server is away."""
        failures = 0
        self.running = True
        writing = asyncio.create_task(self._completer.run(), name="completer")
        try:
            while not self._stopping or self._holds_something:
                self._busy = True
                self.steps += 1
                try:
                    if self._completer.failed or (self._stopping and not len(self._handover)):
                        await self._completer.write()
                    await self._completer.room()
                    counts = await self._step()
                    purged = await self._purge.when_due()
                except (BrokerAwayError, SQLAlchemyError, TimeoutError, OSError) as error:
                    failures += 1
                    await self._give_back()
                    await self._wait_after(failures, error)
                    continue
                if failures:
                    log(Action.RELAY_RESUMED, failures=failures)
                    failures = 0
                if counts.published or not counts.claimed:
                    self.last_success = time.monotonic()
                    self.waits_for = None
                else:
                    self.waits_for = "queues that refuse its events: the log says which"
                if not (purged or self._stopping or self._has_work):
                    self._busy = False
                    await self._handover.wait(self._next_claim - time.monotonic())
        finally:
            self._busy = self.running = False
            self._handover.close()
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
            await self.close()

    @property
    def _has_work(self) -> bool:
        return bool(len(self._handover)) or self._completer.failed or self._claim_is_due

    @property
    def _claim_is_due(self) -> bool:
        """Whether the outbox may hold what nobody hands over."""
        handover = self._handover
        return (
            self._owes_claim
            or handover.unleased
            or not handover.open
            or time.monotonic() >= self._next_claim
        )

    async def run_once(self) -> Counts:
        """Take one batch, publish it, and write down what became of it.

        Raises:
            BrokerAwayError: nothing could be published; the batch was given back.
            sqlalchemy.exc.SQLAlchemyError, TimeoutError: the database is away; what it should have
                written down, the next run writes first.
        """
        await self._completer.write()
        try:
            claimed = (await self._step()).claimed
        finally:
            counts = await self._completer.write()
        return replace(counts, claimed=claimed)

    async def _step(self) -> Counts:
        """Publish one batch and leave what became of it to the completer.

        The batch is what was handed over; or else, and in between when it is due, it is claimed.
        """
        claim_first = self._owes_claim and not self._stopping
        if not claim_first and (handed := self._handover.take(self._batch_size)):
            self._owes_claim = self._claim_is_due
            return await self._deliver(handed, self._handover.token)
        if self._stopping:
            return Counts()
        token = new_id()
        claimed = await self._claim(token)
        return await self._deliver(claimed, token) if claimed else Counts()

    async def _deliver(self, events: Sequence[outbox.ClaimedEvent], token: str) -> Counts:
        started = time.perf_counter()
        try:
            outcomes = await self._publish_in_order(events)
        except BrokerAwayError as error:
            # What was answered before it broke off is kept, and the rest is free again.
            held_back = _without_outcome(events, error.outcomes)
            self._completer.add(Batch(token, error.outcomes, held_back))
            raise
        self._metrics.relay_seconds.observe(time.perf_counter() - started)
        self._completer.add(Batch(token, outcomes, _without_outcome(events, outcomes)))
        published = sum(isinstance(each, Confirmed) for each in outcomes)
        if not published and (deferred := _first_deferred(outcomes)):
            raise BrokerAwayError(deferred.reason)
        return Counts(claimed=len(outcomes), published=published)

    def _settled(self) -> None:
        """A transaction of the completer has ended."""
        self.steps += 1
        if self._missed:
            self._missed = False
            self._handover.tell()
        elif self._completer.failed:
            self._handover.wake()

    async def _claim(self, token: str) -> list[outbox.ClaimedEvent]:
        # What stands behind events that are published and not written yet cannot be claimed now:
        # it is asked for again once they are written.
        self._missed = self._handover.unleased and self._completer.unwritten > 0
        self._handover.claim()
        events: list[outbox.ClaimedEvent] = []
        try:
            async with self._database.transaction() as connection:
                events += await self._lock(connection)
                if events:
                    ids = [event.event_id for event in events]
                    leased = await outbox.lease(
                        connection, ids, token=token, seconds=self._lease_seconds
                    )
                    if leased < len(events):
                        await outbox.release(connection, ids, token=token)
                        events.clear()
                        return []  # our locks were lost on the way: asked again by the next run
        except (SQLAlchemyError, TimeoutError, OSError):
            # Whether it was committed is unknown: what it may have leased is free again.
            self._completer.add(Batch(token, (), events))
            raise
        # Of a long aggregate more may stand behind these.
        self._owes_claim = bool(events)
        self._next_claim = time.monotonic() + self._poll_seconds
        self._handover.open = len(events) < self._claim_limit and not self._stopping
        size = sum(len(event.payload) for event in events)
        # Large events are claimed by the few: a whole batch of them would fill the memory.
        fitting = len(events) * MAX_CLAIM_BYTES // size if size else self._batch_size
        self._claim_limit = max(1, min(self._batch_size, 2 * self._claim_limit, fitting))
        return events

    async def _lock(self, connection: AsyncConnection) -> list[outbox.ClaimedEvent]:
        """Lock the first events of their aggregates, and those that stand behind them."""
        lease_seconds = self._lease_seconds
        found = await outbox.lock_claimable(
            connection, self._claim_limit, lease_seconds=lease_seconds
        )
        if not found:
            return []
        neighbours = await outbox.find_neighbours(connection, [each.event_id for each in found])
        firsts = [each for each in found if each.event_id not in neighbours.preceded]
        followed = [each for each in firsts if each.event_id in neighbours.followed]
        if not followed:
            return firsts
        return firsts + await outbox.lock_followers(
            connection, followed, self._claim_limit, lease_seconds=lease_seconds
        )

    async def _publish_in_order(
        self, events: Sequence[outbox.ClaimedEvent]
    ) -> list[PublishOutcome]:
        """Publish side by side, but of one aggregate one after the other.

        None is tried behind one that failed, or later than the lease allows: it has no outcome.

        Raises:
            BrokerAwayError: with the outcomes of all rounds so far. After a round whose confirms
                stopped coming, the next rounds are half as long.
        """
        latest = time.monotonic() + self._lease_seconds / 2
        waiting: dict[tuple[str, str], deque[outbox.ClaimedEvent]] = {}
        for event in events:
            waiting.setdefault(event.aggregate, deque()).append(event)
        outcomes: list[PublishOutcome] = []
        while waiting and time.monotonic() < latest:
            heads = _round_of(waiting, self._round_limit)
            try:
                published = await self._publisher.publish(heads)
            except BrokerAwayError as error:
                if error.timed_out:
                    self._round_limit = max(1, len(heads) // 2)
                error.outcomes = outcomes + error.outcomes
                raise
            outcomes += published
            self.steps += 1
            if all(isinstance(each, Confirmed) for each in published):
                self._round_limit = min(2 * self._round_limit, self._batch_size)
            for each in published:
                left = waiting.pop(each.event.aggregate)
                if left and isinstance(each, Confirmed):
                    waiting[each.event.aggregate] = left  # behind those that had no turn yet
        return outcomes

    async def _give_back(self) -> None:
        """While something is wrong, events wait in the outbox, where any relay may take them."""
        self._handover.open = False
        events = self._handover.take(len(self._handover))
        self._completer.add(Batch(self._handover.token, (), events))
        with contextlib.suppress(SQLAlchemyError, TimeoutError, OSError):
            await self._completer.write()

    async def _wait_after(self, failures: int, error: Exception) -> None:
        if isinstance(error, BrokerAwayError):
            what, why = "broker", str(error)
        elif classify(error) is Failure.RACE:
            what, why = "database", "another transaction was in the way"
        else:
            what, why = "database", explain_database(error)
        delay = delay_after(failures, first_seconds=0.25, longest_seconds=3).total_seconds()
        self.waits_for = f"the {what}: {why}"
        log(Action.RELAY_WAITING, logging.WARNING, waits_for=what, why=why, retry_in_seconds=delay)
        self._busy = False
        await asyncio.sleep(min(delay, STOPPING_PAUSE_SECONDS) if self._stopping else delay)


def _round_of(
    waiting: Mapping[Any, deque[outbox.ClaimedEvent]], limit: int
) -> list[outbox.ClaimedEvent]:
    """Take the first event of each aggregate, up to `limit` of them and `MAX_ROUND_BYTES`.

    The smallest first: none waits for a larger one of another aggregate. One is taken in any case.
    """
    heads: list[outbox.ClaimedEvent] = []
    size = 0
    for events in sorted(waiting.values(), key=lambda events: len(events[0].payload)):
        size += len(events[0].payload)
        if heads and (size > MAX_ROUND_BYTES or len(heads) >= limit):
            break
        heads.append(events.popleft())
    return heads


def _first_deferred(outcomes: Sequence[PublishOutcome]) -> Deferred | None:
    return next((each for each in outcomes if isinstance(each, Deferred)), None)


def _without_outcome(
    events: Sequence[outbox.ClaimedEvent], outcomes: Sequence[PublishOutcome]
) -> list[outbox.ClaimedEvent]:
    answered = {each.event.event_id for each in outcomes}
    return [event for event in events if event.event_id not in answered]
