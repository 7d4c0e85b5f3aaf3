"""Drains the outbox to the broker: claim, publish with confirms, complete.

Invariants:
- an event counts as published only after the broker's confirm for it;
- only the holder of the lease completes, retries or parks; a relay that overslept changes nothing;
- what fails for the broker's sake costs an event no attempt;
- of one aggregate, the earliest unpublished event alone can be claimed, so its order is kept, and
  an event that is parked holds the later ones of its aggregate back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from db import outbox
from db.engine import Database
from db.failures import Failure, classify
from service.errors import BrokerAwayError
from service.events import new_id
from service.explain import explain_database
from service.publishing import Confirmed, Publisher, PublishOutcome, Rejected
from service.retry import delay_after
from service.telemetry import Action, Metrics, log


@dataclass(frozen=True, slots=True)
class Counts:
    """What one run of the relay did, in events."""

    claimed: int = 0
    published: int = 0
    retried: int = 0
    parked: int = 0


class Relay:
    """One relay. Several may work on one outbox, in this process or in others."""

    def __init__(
        self,
        database: Database,
        publisher: Publisher,
        metrics: Metrics,
        *,
        batch_size: int,
        lease_seconds: float,
        poll_seconds: float,
        max_attempts: int,
        retention: timedelta,
        purge_interval_seconds: float,
        purge_batch_size: int,
    ) -> None:
        self._database = database
        self._publisher = publisher
        self._metrics = metrics
        self._batch_size = batch_size
        self._lease_seconds = lease_seconds
        self._poll_seconds = poll_seconds
        self._max_attempts = max_attempts
        self._retention = retention
        self._purge_interval = purge_interval_seconds
        self._purge_batch_size = purge_batch_size
        self._next_purge = time.monotonic() + purge_interval_seconds
        self._woken = asyncio.Event()
        self._stopping = False
        self._debt: Callable[[], Awaitable[object]] | None = None
        self.last_success: float | None = None
        """When it last asked the outbox and did what it found, on the monotonic clock."""
        self.busy = False
        """Whether it has something at hand that is worth waiting for."""

    def wake(self) -> None:
        """There is something new in the outbox: do not wait for the next poll."""
        self._woken.set()

    def stop(self) -> None:
        """Finish the batch at hand and end `run()`."""
        self._stopping = True
        self._woken.set()

    async def close(self) -> None:
        """Close the link to the broker; the next run opens it again."""
        await self._publisher.close()

    async def run(self) -> None:
        """Drain until stopped, gently when idle, with backoff while a server is away."""
        failures = 0
        try:
            while not self._stopping:
                self._woken.clear()
                self.busy = True
                try:
                    counts = await self.run_once()
                    purged = await self._purge_when_due()
                except (BrokerAwayError, SQLAlchemyError, TimeoutError, OSError) as error:
                    failures += 1
                    await self._wait_after(failures, error)
                    continue
                if failures:
                    log(Action.RELAY_RESUMED, failures=failures)
                    failures = 0
                self.last_success = time.monotonic()
                if not (counts.claimed or purged):
                    self.busy = False
                    await self._wait(self._poll_seconds)
        finally:
            await self.close()

    async def run_once(self) -> Counts:
        """Claim one batch, publish it, and write down what became of it.

        Raises:
            BrokerAwayError: nothing could be published; the batch was given back.
            sqlalchemy.exc.SQLAlchemyError, TimeoutError: the database is away; what it should have
                written down of this batch, the next run writes first.
        """
        started = time.perf_counter()
        await self._pay_debt()
        token = new_id()
        events = await self._claim(token)
        if not events:
            return Counts()
        try:
            outcomes = await self._publisher.publish(events)
        except BrokerAwayError:
            await self._give_back(events, token)
            raise
        with self._in_debt_for(lambda: self._complete(outcomes, token)):
            counts = await self._complete(outcomes, token)
        self._metrics.relay_seconds.observe(time.perf_counter() - started)
        return counts

    async def purge(self) -> int:
        """Delete one batch of events that were published longer ago than the retention time."""
        async with self._database.transaction() as connection:
            ids = await outbox.find_purgeable(
                connection, retention=self._retention, limit=self._purge_batch_size
            )
            return await outbox.delete_published(connection, ids) if ids else 0

    async def _claim(self, token: str) -> list[outbox.ClaimedEvent]:
        events: list[outbox.ClaimedEvent] = []
        with self._in_debt_for(lambda: self._release(events, token)):
            async with self._database.transaction() as connection:
                events += await outbox.lock_claimable(connection, self._batch_size)
                if events:
                    ids = [event.id for event in events]
                    await outbox.lease(connection, ids, token=token, seconds=self._lease_seconds)
        return events

    @contextlib.contextmanager
    def _in_debt_for(self, work: Callable[[], Awaitable[object]]) -> Iterator[None]:
        """Where the database goes away in this block, `work` is what the next run does first.

        Else these events would wait for their lease to end, and the confirmed ones be published
        once more. The token keeps it harmless where it was done already, or is too late.
        """
        try:
            yield
        except (SQLAlchemyError, TimeoutError, OSError) as error:
            if classify(error) is Failure.AWAY:
                self._debt = work
            raise

    async def _pay_debt(self) -> None:
        debt, self._debt = self._debt, None
        if debt is not None:
            with self._in_debt_for(debt):
                await debt()

    async def _complete(self, outcomes: Sequence[PublishOutcome], token: str) -> Counts:
        """Write down what became of each event, as far as the lease is still ours."""
        confirmed = [each.event.id for each in outcomes if isinstance(each, Confirmed)]
        rejected = [each for each in outcomes if isinstance(each, Rejected)]
        completed = parked = 0
        async with self._database.transaction() as connection:
            if confirmed:
                completed = await outbox.complete(connection, confirmed, token=token)
            for each in rejected:
                event, attempt = each.event, each.event.attempts + 1
                if attempt >= self._max_attempts:
                    await outbox.park(connection, event.id, token=token, error=each.reason)
                    parked += 1
                else:
                    await outbox.retry_later(
                        connection,
                        event.id,
                        token=token,
                        delay=delay_after(attempt),
                        error=each.reason,
                    )
        if completed < len(confirmed):
            log(Action.LEASE_LOST, logging.WARNING, events=len(confirmed) - completed)
        self._tell(rejected)
        self._metrics.published.inc(completed)
        self._metrics.retried.inc(len(rejected) - parked)
        self._metrics.parked.inc(parked)
        return Counts(
            claimed=len(outcomes),
            published=completed,
            retried=len(rejected) - parked,
            parked=parked,
        )

    def _tell(self, rejected: Sequence[Rejected]) -> None:
        for each in rejected:
            attempt = each.event.attempts + 1
            parked = attempt >= self._max_attempts
            log(
                Action.EVENT_PARKED if parked else Action.EVENT_RETRIED,
                logging.ERROR if parked else logging.WARNING,
                event_id=each.event.event_id,
                event_type=each.event.event_type,
                attempt=attempt,
                reason=each.reason,
            )

    async def _give_back(self, events: Sequence[outbox.ClaimedEvent], token: str) -> None:
        """Free the claim at once, or else as soon as the database is back."""
        with (
            contextlib.suppress(SQLAlchemyError, TimeoutError, OSError),
            self._in_debt_for(lambda: self._release(events, token)),
        ):
            await self._release(events, token)

    async def _release(self, events: Sequence[outbox.ClaimedEvent], token: str) -> None:
        if events:
            async with self._database.transaction() as connection:
                await outbox.release(connection, [event.id for event in events], token=token)

    async def _purge_when_due(self) -> int:
        if time.monotonic() < self._next_purge:
            return 0
        purged = await self.purge()
        if purged < self._purge_batch_size:
            self._next_purge = time.monotonic() + self._purge_interval
        if purged:
            log(Action.PURGED, events=purged)
        return purged

    async def _wait_after(self, failures: int, error: Exception) -> None:
        if isinstance(error, BrokerAwayError):
            what, why = "broker", str(error)
        elif classify(error) is Failure.RACE:
            what, why = "database", "another transaction was in the way"
        else:
            what, why = "database", explain_database(error)
        delay = delay_after(failures, first_seconds=0.25, longest_seconds=3).total_seconds()
        log(Action.RELAY_WAITING, logging.WARNING, waits_for=what, why=why, retry_in_seconds=delay)
        self.busy = False
        if not self._stopping:
            await asyncio.sleep(delay)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._woken.wait()
