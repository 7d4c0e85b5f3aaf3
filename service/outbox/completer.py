"""What became of published events, written down as far as their lease is still ours."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from db import outbox
from db.engine import Database
from db.outbox import ClaimedEvent
from service.backoff import delay_after
from service.observability import Action, Metrics, log
from service.outbox.publisher import Confirmed, Deferred, PublishOutcome, Rejected

# For how long an event is kept back that its queue does not take now: longer than the election of a
# leader, which took 0.2 to 0.6 s where a node was killed.
DEFER_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What one run of the relay did, in events."""

    claimed: int = 0
    published: int = 0
    retried: int = 0
    parked: int = 0
    deferred: int = 0


@dataclass(frozen=True, slots=True)
class Completed:
    """How many confirmed events were written down, and how many were not ours any more."""

    count: int = 0
    lost: int = 0


class Completion:
    """Turns outcomes into rows, numbers and log lines."""

    def __init__(self, database: Database, metrics: Metrics, *, max_attempts: int) -> None:
        self._database = database
        self._metrics = metrics
        self._max_attempts = max_attempts

    async def write(
        self,
        outcomes: Sequence[PublishOutcome],
        held_back: Sequence[ClaimedEvent],
        token: str,
    ) -> Counts:
        """One transaction for all; `held_back` were not tried, and are free again.

        Raises:
            sqlalchemy.exc.SQLAlchemyError, TimeoutError: the database is away. Doing it again is
                harmless: the token fences off what was done, or what another relay has by now.
        """
        confirmed = [each.event.event_id for each in outcomes if isinstance(each, Confirmed)]
        rejected = [each for each in outcomes if isinstance(each, Rejected)]
        deferred = [each for each in outcomes if isinstance(each, Deferred)]
        written = Completed()
        async with self._database.transaction() as connection:
            if confirmed:
                written = await complete(connection, confirmed, token=token)
            for times in sorted({each.times for each in deferred}):
                ids = [each.event.event_id for each in deferred if each.times == times]
                delay = delay_after(times, first_seconds=DEFER_SECONDS)
                await outbox.defer(connection, ids, token=token, delay=delay)
            for each in rejected:
                event_id, attempt = each.event.event_id, each.event.attempts + 1
                if self._is_last(each):
                    await outbox.park(connection, event_id, token=token, error=each.reason)
                else:
                    await outbox.retry_later(
                        connection,
                        event_id,
                        token=token,
                        delay=delay_after(attempt),
                        error=each.reason,
                    )
            if held_back:
                ids = [event.event_id for event in held_back]
                await outbox.release(connection, ids, token=token)
        tell_published(self._metrics, written)
        parked = sum(self._is_last(each) for each in rejected)
        self._tell(rejected)
        if deferred:
            log(
                Action.EVENT_DEFERRED,
                logging.WARNING,
                events=len(deferred),
                reason=deferred[0].reason,
                times=max(each.times for each in deferred),
            )
        self._metrics.retried.inc(len(rejected) - parked)
        self._metrics.parked.inc(parked)
        return Counts(
            claimed=len(outcomes),
            published=written.count,
            retried=len(rejected) - parked,
            parked=parked,
            deferred=len(deferred),
        )

    def _is_last(self, rejected: Rejected) -> bool:
        """Whether its attempts are used up: it is parked, for an operator to look at."""
        return rejected.event.attempts + 1 >= self._max_attempts

    def _tell(self, rejected: Sequence[Rejected]) -> None:
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


async def complete(
    connection: AsyncConnection, event_ids: Sequence[str], *, token: str
) -> Completed:
    """Write down that these events were confirmed, as far as `token` still holds them.

    What is published already was written down by an earlier attempt whose COMMIT was not answered,
    or by the relay that has had the lease since.
    """
    count = await outbox.complete(connection, event_ids, token=token)
    if count == len(event_ids):
        return Completed(count)
    published = await outbox.find_published(connection, event_ids)
    return Completed(count, lost=len(event_ids) - len(published))


def tell_published(metrics: Metrics, written: Completed) -> None:
    """Count what was written down; what was lost is another relay's by now."""
    metrics.published.inc(written.count)
    if written.lost:
        log(Action.LEASE_LOST, logging.WARNING, events=written.lost)
