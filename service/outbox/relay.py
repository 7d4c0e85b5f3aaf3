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
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
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
from service.outbox.completer import Completion, Counts
from service.outbox.envelope import new_id
from service.outbox.handover import Handover
from service.outbox.publisher import Confirmed, Deferred, Publisher, PublishOutcome

# So much is under way at once: at the narrowest link that is served (1 MiB in the time allowed for
# a confirm) the first confirms come in time, and what breaks off costs few repeats.
MAX_ROUND_BYTES = 1024 * 1024
# A claim that finds more than this is followed by a smaller one.
MAX_CLAIM_BYTES = 16 * 1024 * 1024


class Relay:
    """One relay. Several may work on one outbox, in this process or in others."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        metrics: Metrics,
        handover: Handover,
        *,
        completion: Completion,
        purge: Purge,
        batch_size: int,
        lease_seconds: float,
        poll_seconds: float,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._metrics = metrics
        self._handover = handover
        self._completion = completion
        self._purge = purge
        self._batch_size = self._round_limit = self._claim_limit = batch_size
        self._lease_seconds = lease_seconds
        self._poll_seconds = poll_seconds
        self._next_claim = 0.0
        self._owes_claim = True
        self._stopping = False
        self._debts: list[Callable[[], Awaitable[object]]] = []
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
        return self._busy or self._handover.holds_something

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
        try:
            while not self._stopping or self._handover.holds_something:
                self._busy = True
                self.steps += 1
                try:
                    counts = await self.run_once()
                    purged = await self._purge.when_due()
                except (BrokerAwayError, SQLAlchemyError, TimeoutError, OSError) as error:
                    failures += 1
                    await self._give_back_handover()
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
                if not (purged or self._stopping or self._handover.has_work or self._claim_is_due):
                    self._busy = False
                    await self._handover.wait(self._next_claim - time.monotonic())
        finally:
            self._busy = self.running = False
            self._handover.close()
            await self.close()

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

        It is what was handed over; or else, and in between when it is due, it is claimed. While
        intake is at work it writes down on its way what was handed over and confirmed; what it has
        left is written first.

        Raises:
            BrokerAwayError: nothing could be published; the batch was given back.
            sqlalchemy.exc.SQLAlchemyError, TimeoutError: the database is away; what it should have
                written down of this batch, the next run writes first.
        """
        await self._pay_debts()
        if self._stopping or not self._handover.storing:
            published, self._handover.published = self._handover.published, []
            if published:
                counts = await self._write_down(published, [], self._handover.token)
                self._handover.written()
                return counts
        if not self._owes_claim and (handed := self._handover.take(self._batch_size)):
            self._owes_claim = self._claim_is_due
            return await self._deliver(handed, self._handover.token)
        token = new_id()
        claimed = await self._claim(token)
        return await self._deliver(claimed, token) if claimed else Counts()

    async def _deliver(self, events: Sequence[outbox.ClaimedEvent], token: str) -> Counts:
        started = time.perf_counter()
        try:
            outcomes = await self._publish_in_order(events)
        except BrokerAwayError as error:
            await self._keep_what_is_known(events, error.outcomes, token)
            raise
        held_back = _without_outcome(events, outcomes)
        confirmed = [each for each in outcomes if isinstance(each, Confirmed)]
        if len(confirmed) == len(events) and self._handover.leave(confirmed, token):
            counts = Counts(claimed=len(events), published=len(confirmed))
        else:
            counts = await self._write_down(outcomes, held_back, token)
        self._metrics.relay_seconds.observe(time.perf_counter() - started)
        if counts.deferred and not counts.published:
            raise BrokerAwayError(next(e.reason for e in outcomes if isinstance(e, Deferred)))
        return counts

    async def _keep_what_is_known(
        self,
        events: Sequence[outbox.ClaimedEvent],
        outcomes: Sequence[PublishOutcome],
        token: str,
    ) -> None:
        """Write down what was answered before publishing broke off, and give back the rest."""
        if not outcomes:
            await self._give_back(events, token)
            return
        # Where the database is away, too, the next run writes it first.
        with contextlib.suppress(SQLAlchemyError, TimeoutError, OSError):
            await self._write_down(outcomes, _without_outcome(events, outcomes), token)

    async def _write_down(
        self,
        outcomes: Sequence[PublishOutcome],
        held_back: Sequence[outbox.ClaimedEvent],
        token: str,
    ) -> Counts:
        with self._in_debt_for(lambda: self._completion.write(outcomes, held_back, token)):
            return await self._completion.write(outcomes, held_back, token)

    async def _claim(self, token: str) -> list[outbox.ClaimedEvent]:
        self._handover.claim()
        events: list[outbox.ClaimedEvent] = []
        with self._in_debt_for(lambda: self._release(events, token)):
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

    @contextlib.contextmanager
    def _in_debt_for(self, work: Callable[[], Awaitable[object]]) -> Iterator[None]:
        """Where the database fails us in this block, `work` is what the next run does first.

        Else these events would wait for their lease to end, and the confirmed ones be published
        once more. The token keeps it harmless where it was done already, or is too late.
        """
        try:
            yield
        except (SQLAlchemyError, TimeoutError, OSError) as error:
            if classify(error) is not Failure.DATA:
                self._debts.append(work)
            raise

    async def _pay_debts(self) -> None:
        while self._debts:
            self.steps += 1
            debt = self._debts.pop(0)
            with self._in_debt_for(debt):
                await debt()

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

    async def _give_back(self, events: Sequence[outbox.ClaimedEvent], token: str) -> None:
        """Free the claim at once, or else as soon as the database is back."""
        with (
            contextlib.suppress(SQLAlchemyError, TimeoutError, OSError),
            self._in_debt_for(lambda: self._release(events, token)),
        ):
            await self._release(events, token)

    async def _give_back_handover(self) -> None:
        """While something is wrong, events wait in the outbox, where any relay may take them."""
        self._handover.open = False
        if events := self._handover.take(len(self._handover)):
            await self._give_back(events, self._handover.token)

    async def _release(self, events: Sequence[outbox.ClaimedEvent], token: str) -> None:
        if events:
            async with self._database.transaction() as connection:
                await outbox.release(connection, [each.event_id for each in events], token=token)

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
        if not self._stopping:
            await asyncio.sleep(delay)


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


def _without_outcome(
    events: Sequence[outbox.ClaimedEvent], outcomes: Sequence[PublishOutcome]
) -> list[outbox.ClaimedEvent]:
    answered = {each.event.event_id for each in outcomes}
    return [event for event in events if event.event_id not in answered]
