"""Group commit: concurrent decisions become one transaction.

Handlers hand in what they have and wait. While one transaction commits, the next batch gathers, so
a batch forms by itself and adds no waiting when idle.

Invariants:
- a waiter gets its outcome only after the commit that made it true;
- one transaction is open at a time per process, so a batch sees all batches before it;
- a cancelled waiter does not stop its batch: its delivery comes again and finds what was stored;
- a transaction that failed, or whose outcome is unknown, is done again from its first statement:
  an order is found again by its key, a dead letter by its id.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from db import dead_letters, orders, outbox
from db.engine import Database
from db.failures import Failure, classify
from db.records import TakenOrder
from service.errors import BrokerAwayError, DatabaseAwayError
from service.events import Events, Row, dead_letter_row, new_id, order_row
from service.explain import explain_database
from service.orders import Accepted, Candidate, Conflict, Duplicate, Refused, TakenOrders
from service.publishing import Publisher, Rejected
from service.retry import delay_after
from service.telemetry import Action, Metrics, log

# As for one body (service.delivery): a statement holds the bodies of a whole batch.
MAX_BATCH_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """Recorded as a dead letter, its OrderFailed and its copy in the outbox."""

    refused: Refused


@dataclass(frozen=True, slots=True)
class Repeated:
    """A redelivery of what is recorded as a dead letter already: nothing was done."""


Outcome = Accepted | Duplicate | DeadLettered | Repeated


@dataclass(eq=False, slots=True)
class _Entry:
    """One delivery that waits for its outcome."""

    subject: Candidate | Refused
    waiter: asyncio.Future[Outcome]
    dead_letter_id: str = field(default_factory=new_id)

    @property
    def size(self) -> int:
        return len(self.subject.delivery.body) if self.subject.delivery.storable else 0

    @property
    def surely_first(self) -> bool:
        return self.subject.delivery.first and not self.waiter.cancelled()


@dataclass(slots=True)
class _Plan:
    """What one transaction writes, and what each entry gets to know once it has."""

    orders: list[Row] = field(default_factory=list)
    dead_letters: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    outcomes: list[tuple[_Entry, Outcome]] = field(default_factory=list)


class Intake:
    """Takes deliveries in, decides them in batches, and answers each with its own outcome."""

    def __init__(
        self,
        database: Database,
        events: Events,
        metrics: Metrics,
        *,
        batch_size: int,
        committed: Callable[[], None],
        large: Publisher,
    ) -> None:
        self._database = database
        self._events = events
        self._metrics = metrics
        self._batch_size = batch_size
        self._committed = committed
        self._large = large
        self._one_at_a_time = asyncio.Lock()
        self._waiting: deque[_Entry] = deque()
        self._arrived = asyncio.Event()
        self._abandoned = asyncio.Event()
        self.away_since: float | None = None
        """Since when the database has been away, on the monotonic clock in seconds."""

    async def submit(self, subject: Candidate | Refused) -> Outcome:
        """Decide and store `subject`; returns once that is committed.

        Raises:
            BrokerAwayError: a body too large to be stored could not be passed on.
            DatabaseAwayError: intake was told to abandon what it cannot store.
        """
        if isinstance(subject, Refused) and not subject.delivery.storable:
            await self._publish_large(subject)
        entry = _Entry(subject, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        self._arrived.set()
        return await entry.waiter

    def abandon(self) -> None:
        """Give back what cannot be stored, at once and from now on, until `resume()`."""
        self._abandoned.set()

    def resume(self) -> None:
        """Hold what cannot be stored and try again, from now on: the normal way."""
        self._abandoned.clear()

    async def close(self) -> None:
        """Close what passing large bodies on has opened."""
        await self._large.close()

    async def run(self) -> None:
        """Take in until cancelled."""
        while True:
            await self._arrived.wait()
            await self.run_once()

    async def run_once(self) -> int:
        """Take in one batch of what waits; returns how many deliveries it held."""
        batch = self._next_batch()
        if batch:
            await self._take_in(batch)
        return len(batch)

    def _next_batch(self) -> list[_Entry]:
        batch: list[_Entry] = []
        size = 0
        while self._waiting and len(batch) < self._batch_size:
            size += self._waiting[0].size
            if batch and size > MAX_BATCH_BYTES:
                break
            batch.append(self._waiting.popleft())
        if not self._waiting:
            self._arrived.clear()
        return batch

    async def _take_in(self, batch: Sequence[_Entry]) -> None:
        """Store the batch, however often that must be tried; one bad entry fails alone."""
        attempt = 0
        while True:
            try:
                outcomes = await self._commit(batch, first_attempt=attempt == 0)
            except (SQLAlchemyError, TimeoutError, OSError) as error:
                attempt += 1
                match classify(error):
                    case Failure.RACE:
                        log(Action.INTAKE_RETRYING, logging.DEBUG, attempt=attempt, why="race")
                        await asyncio.sleep(
                            delay_after(attempt, first_seconds=0.01).total_seconds()
                        )
                    case Failure.AWAY:
                        if not await self._wait_for_database(attempt, error):
                            return self._give_back(batch, error)
                    case Failure.DATA:
                        return await self._isolate(batch, error)
            except Exception as error:  # noqa: BLE001 - a defect costs its own message, no other
                return await self._isolate(batch, error)
            else:
                return self._settle(outcomes)

    async def _commit(
        self, batch: Sequence[_Entry], *, first_attempt: bool
    ) -> list[tuple[_Entry, Outcome]]:
        """THE transaction: decide the batch by what is stored, and store what follows from it."""
        started = time.perf_counter()
        async with self._database.transaction() as connection:
            plan = await self._plan(connection, batch, first_attempt=first_attempt)
            if plan.orders:
                await orders.insert_orders(connection, plan.orders)
            if plan.dead_letters:
                await dead_letters.insert_dead_letters(connection, plan.dead_letters)
            if plan.events:
                await outbox.add_events(connection, plan.events)
        self._metrics.commit_seconds.observe(time.perf_counter() - started)
        self._metrics.batch_size.observe(len(batch))
        if plan.events:
            self._committed()
        return plan.outcomes

    async def _plan(
        self, connection: AsyncConnection, batch: Sequence[_Entry], *, first_attempt: bool
    ) -> _Plan:
        plan, refused = _Plan(), list[tuple[_Entry, Refused]]()
        now = datetime.now(UTC)
        candidates = [
            (entry, entry.subject) for entry in batch if isinstance(entry.subject, Candidate)
        ]
        taken = TakenOrders(await self._find_taken(connection, [each for _, each in candidates]))
        for entry in batch:
            if isinstance(entry.subject, Refused):
                refused.append((entry, entry.subject))
                continue
            candidate = entry.subject
            match taken.decide(candidate):
                case Accepted() as accepted:
                    taken.add(candidate)
                    plan.orders.append(order_row(candidate, now))
                    plan.events.append(self._events.processed(candidate, now))
                    plan.outcomes.append((entry, accepted))
                case Duplicate() as duplicate:
                    plan.outcomes.append((entry, duplicate))
                case Conflict(refusal):
                    subject = Refused(refusal, candidate.delivery, candidate.order.order_id)
                    refused.append((entry, subject))
        # The same order of locks everywhere: fewer deadlocks between processes.
        plan.orders.sort(key=lambda row: row["order_id"])
        if refused:
            await self._plan_dead_letters(connection, plan, refused, now, first_attempt)
        return plan

    async def _find_taken(
        self, connection: AsyncConnection, candidates: Sequence[Candidate]
    ) -> list[TakenOrder]:
        if not candidates:
            return []
        return await orders.find_taken(
            connection,
            idempotency_keys={each.order.idempotency_key for each in candidates},
            order_ids={each.order.order_id for each in candidates},
        )

    async def _plan_dead_letters(
        self,
        connection: AsyncConnection,
        plan: _Plan,
        refused: Sequence[tuple[_Entry, Refused]],
        now: datetime,
        first_attempt: bool,
    ) -> None:
        """Give each refused delivery a dead letter of its own, unless it has one.

        AMQP gives a delivery no identity. A delivery that is surely the first one is a new message
        even where an equal one was recorded; any other is taken to be the one recorded. Two who
        record the same delivery at once collide on (digest, occurrence), and one tries again.
        """
        digests = [subject.delivery.digest() for _, subject in refused]
        last = await dead_letters.last_occurrences(connection, set(digests))
        recorded = set[str]()
        if not first_attempt:
            recorded = await dead_letters.find_recorded(
                connection, [entry.dead_letter_id for entry, _ in refused]
            )
        for (entry, subject), digest in zip(refused, digests, strict=True):
            if entry.dead_letter_id in recorded:
                plan.outcomes.append((entry, DeadLettered(subject)))
                continue
            if digest in last and not entry.surely_first:
                plan.outcomes.append((entry, Repeated()))
                continue
            last[digest] = last.get(digest, 0) + 1
            letter_id = entry.dead_letter_id
            plan.dead_letters.append(dead_letter_row(subject, letter_id, digest, last[digest]))
            plan.events.append(self._events.failed(subject, letter_id, now))
            if subject.delivery.storable:
                plan.events.append(self._events.dead_letter(subject, letter_id))
            plan.outcomes.append((entry, DeadLettered(subject)))

    async def _publish_large(self, refused: Refused) -> None:
        """Pass a body on that no row takes, before it is recorded: it is then safe on its queue."""
        async with self._one_at_a_time:
            (outcome,) = await self._large.publish([self._events.large_dead_letter(refused)])
        if isinstance(outcome, Rejected):
            raise BrokerAwayError(outcome.reason)

    def _settle(self, outcomes: Sequence[tuple[_Entry, Outcome]]) -> None:
        if self.away_since is not None:
            log(Action.INTAKE_RESUMED, away_seconds=time.monotonic() - self.away_since)
            self.away_since = None
        for entry, outcome in outcomes:
            self._count(outcome, entry)
            if not entry.waiter.done():
                entry.waiter.set_result(outcome)

    def _count(self, outcome: Outcome, entry: _Entry) -> None:
        match outcome:
            case Accepted():
                self._metrics.messages.labels("accepted").inc()
            case Duplicate():
                self._metrics.messages.labels("duplicate").inc()
            case Repeated():
                self._metrics.messages.labels("repeated").inc()
            case DeadLettered(refused):
                self._metrics.messages.labels("dead_lettered").inc()
                self._metrics.dead_letters.labels(refused.refusal.reason).inc()
                log(
                    Action.DEAD_LETTERED,
                    logging.WARNING,
                    reason=refused.refusal.reason,
                    details=refused.refusal.details,
                    dead_letter_id=entry.dead_letter_id,
                )

    async def _wait_for_database(self, attempt: int, error: Exception) -> bool:
        """Wait for the next attempt; False where everything was abandoned meanwhile."""
        if self.away_since is None:
            self.away_since = time.monotonic()
        delay = delay_after(attempt, first_seconds=0.25, longest_seconds=3).total_seconds()
        log(
            Action.INTAKE_RETRYING,
            logging.WARNING,
            why=explain_database(error),
            attempt=attempt,
            retry_in_seconds=delay,
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._abandoned.wait()
        return not self._abandoned.is_set()

    def _give_back(self, batch: Sequence[_Entry], error: Exception) -> None:
        """Fail everything that waits: the broker keeps it, and it comes again."""
        waiting = [*batch, *self._waiting]
        self._waiting.clear()
        self._arrived.clear()
        for entry in waiting:
            if not entry.waiter.done():
                away = DatabaseAwayError("the database is away; the broker keeps the message")
                away.__cause__ = error
                entry.waiter.set_exception(away)

    async def _isolate(self, batch: Sequence[_Entry], error: Exception) -> None:
        """Somebody's message cannot be stored, now or ever: whose, each alone will tell."""
        if len(batch) > 1:
            for entry in batch:
                await self._take_in([entry])
        elif not batch[0].waiter.done():
            batch[0].waiter.set_exception(error)
