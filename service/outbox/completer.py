"""Writes down what became of published events: many outcomes, one transaction.

The relay adds outcomes as the broker answers and goes on publishing. They are written every
`TICK_SECONDS`, or as soon as `batch_size` events wait. Each statement is fenced by the lease token,
so writing twice, or too late, changes nothing. What a failed transaction should have written stays
here, and is written first once the database is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from db import outbox
from db.engine import Database
from db.failures import Failure, classify
from db.outbox import ClaimedEvent
from service.backoff import delay_after
from service.observability import Action, Metrics, log
from service.outbox.publisher import Confirmed, Deferred, PublishOutcome, Rejected

# How long to hold back an event whose queue cannot take it now: longer than the election of a new
# leader, which took 0.2 to 0.6 s after a node was killed.
DEFER_SECONDS = 4.0
# How long an outcome waits for others to share its transaction. It delays no event: only the next
# event of the same aggregate, where that is not claimed yet.
TICK_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Counts:
    """What one step of the relay, or one transaction of the completer, did: in events."""

    claimed: int = 0
    published: int = 0
    retried: int = 0
    parked: int = 0
    deferred: int = 0


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of events under one lease token.

    `held_back` were not tried; they are released.
    """

    token: str
    outcomes: Sequence[PublishOutcome]
    held_back: Sequence[ClaimedEvent] = ()

    def __len__(self) -> int:
        return len(self.outcomes) + len(self.held_back)


class Completer:
    """Gathers outcomes and turns them into rows, metrics and log lines."""

    def __init__(
        self,
        database: Database,
        metrics: Metrics,
        *,
        max_attempts: int,
        batch_size: int,
        tick_seconds: float = TICK_SECONDS,
    ) -> None:
        """
        Args:
            max_attempts: an event that was rejected so often is parked.
            batch_size: how many events are written without waiting for the tick.
        """
        self._database = database
        self._metrics = metrics
        self._max_attempts = max_attempts
        self._batch_size = batch_size
        self._tick_seconds = tick_seconds
        self._batches: list[Batch] = []
        self._added = asyncio.Event()
        self._full = asyncio.Event()
        self._settled = asyncio.Event()
        self._one_at_a_time = asyncio.Lock()
        self.on_settled: Callable[[], None] = lambda: None
        """Called when a transaction has ended, however it did."""
        self.failed = False
        """Whether the last transaction failed: whoever owns this is to call `write()` again."""

    @property
    def unwritten(self) -> int:
        """How many events have an outcome that is not committed yet."""
        return sum(map(len, self._batches))

    def add(self, batch: Batch) -> None:
        """Take over a batch; it is written soon, and kept until then."""
        if not len(batch):
            return
        self._batches.append(batch)
        self._added.set()
        if self.unwritten >= self._batch_size:
            self._full.set()

    async def room(self) -> None:
        """Wait until less than two full transactions are behind, or until one failed."""
        while self.unwritten >= 2 * self._batch_size and not self.failed:
            self._settled.clear()
            await self._settled.wait()

    async def run(self) -> None:
        """Write by count and time, until cancelled. After a failure: not before `write()` did."""
        while True:
            await self._added.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._tick_seconds):
                    await self._full.wait()
            if self.failed:
                self._settled.clear()
                await self._settled.wait()
                continue
            with contextlib.suppress(SQLAlchemyError, TimeoutError, OSError):
                await self.write()

    async def write(self) -> Counts:
        """Write everything that waits, in one transaction.

        Raises:
            sqlalchemy.exc.SQLAlchemyError, TimeoutError, OSError: the database is away. What was to
                be written is kept.
        """
        async with self._one_at_a_time:
            batches = list(self._batches)
            self._added.clear()
            self._full.clear()
            if not batches:
                self.failed = False
                return Counts()
            try:
                counts = await self._write(batches)
            except BaseException as error:
                self.failed = True
                if isinstance(error, SQLAlchemyError) and classify(error) is Failure.DATA:
                    # It would fail for ever. The leases end, and the events are published again.
                    del self._batches[: len(batches)]
                raise
            else:
                del self._batches[: len(batches)]
                self.failed = False
                return counts
            finally:
                if self._batches:
                    self._added.set()
                self._settled.set()
                self.on_settled()

    async def _write(self, batches: Sequence[Batch]) -> Counts:
        published = lost = 0
        async with self._database.transaction() as connection:
            for token, group in groupby(sorted(batches, key=_token), key=_token):
                count, missed = await self._write_under(connection, token, list(group))
                published += count
                lost += missed
        return self._tell([each for batch in batches for each in batch.outcomes], published, lost)

    async def _write_under(
        self, connection: AsyncConnection, token: str, batches: Sequence[Batch]
    ) -> tuple[int, int]:
        """Write what stands under one token; returns how many were completed, and how many lost."""
        outcomes = [each for batch in batches for each in batch.outcomes]
        confirmed = [each.event.event_id for each in outcomes if isinstance(each, Confirmed)]
        deferred = [each for each in outcomes if isinstance(each, Deferred)]
        held_back = [each.event_id for batch in batches for each in batch.held_back]
        completed = lost = 0
        if confirmed:
            completed = await outbox.complete(connection, confirmed, token=token)
        if completed < len(confirmed):
            # What is published already was written by an attempt whose COMMIT was not answered, or
            # by the relay that has held the lease since.
            written = await outbox.find_published(connection, confirmed)
            lost = len(confirmed) - len(written)
        for times in sorted({each.times for each in deferred}):
            ids = [each.event.event_id for each in deferred if each.times == times]
            delay = delay_after(times, first_seconds=DEFER_SECONDS)
            await outbox.defer(connection, ids, token=token, delay=delay)
        for each in outcomes:
            if not isinstance(each, Rejected):
                continue
            event_id, attempt = each.event.event_id, each.event.attempts + 1
            if self._is_last(each):
                await outbox.park(connection, event_id, token=token, error=each.reason)
            else:
                delay = delay_after(attempt)
                await outbox.retry_later(
                    connection, event_id, token=token, delay=delay, error=each.reason
                )
        if held_back:
            await outbox.release(connection, held_back, token=token)
        return completed, lost

    def _is_last(self, rejected: Rejected) -> bool:
        """Whether its attempts are used up: it is parked, for an operator to look at."""
        return rejected.event.attempts + 1 >= self._max_attempts

    def _tell(self, outcomes: Sequence[PublishOutcome], published: int, lost: int) -> Counts:
        rejected = [each for each in outcomes if isinstance(each, Rejected)]
        deferred = [each for each in outcomes if isinstance(each, Deferred)]
        self._metrics.published.inc(published)
        if lost:
            log(Action.LEASE_LOST, logging.WARNING, events=lost)
        for each in rejected:
            parked = self._is_last(each)
            log(
                Action.EVENT_PARKED if parked else Action.EVENT_RETRIED,
                logging.ERROR if parked else logging.WARNING,
                event_id=each.event.event_id,
                event_type=each.event.event_type,
                attempt=each.event.attempts + 1,
                reason=each.reason,
            )
        if deferred:
            log(
                Action.EVENT_DEFERRED,
                logging.WARNING,
                events=len(deferred),
                reason=deferred[0].reason,
                times=max(each.times for each in deferred),
            )
        parked_count = sum(map(self._is_last, rejected))
        self._metrics.retried.inc(len(rejected) - parked_count)
        self._metrics.parked.inc(parked_count)
        return Counts(
            claimed=len(outcomes),
            published=published,
            retried=len(rejected) - parked_count,
            parked=parked_count,
            deferred=len(deferred),
        )


def _token(batch: Batch) -> str:
    return batch.token
