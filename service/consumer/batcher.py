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
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from db import dead_letters, orders, outbox
from db.engine import Database
from db.failures import (
    RIGHT_ERRORS,
    SERVER_ERRORS,
    Failure,
    classify,
    error_number,
    file_error,
    link_lost,
)
from db.outbox import ClaimedEvent
from order_contracts import FailureReason
from service.backoff import delay_after
from service.consumer.link_checks import Links, LinksUnknownError
from service.consumer.recorded import Recorded
from service.consumer.unit_of_work import (
    DeadLettered,
    Entry,
    EventRepeated,
    Outcome,
    Plan,
    Repeated,
    Returned,
    plan_batch,
)
from service.database import largest_packet, takes_writes
from service.domain.decision import Accepted, Duplicate
from service.domain.errors import (
    BrokerAwayError,
    DatabaseAwayError,
    Refusal,
    StorageRefusedError,
    TooManyReturnsError,
)
from service.driver_errors import explain_database
from service.inbound import Candidate, Refused
from service.observability import Action, Metrics, log
from service.outbox.envelope import Events, Row, to_publish
from service.outbox.handover import Handover
from service.outbox.publisher import Confirmed, Publisher

# As for one body (`MAX_STORED_BYTES`): a statement holds bodies and headers of a whole batch.
MAX_BATCH_BYTES = 4 * 1024 * 1024
# After so many failures of one batch, the database is asked whether the fault may be the batch's.
SUSPICIOUS_ATTEMPTS = 3
# After so long a redelivery is decided again that may be another process's to mark.
LATER_SECONDS = 1.0
# How often a body that no row has is passed back to the dead-letter queue, and how slowly.
MOST_PASSES = 20
PASS_BACK_SECONDS = 1.0
COUNTED_AS: dict[type[Outcome], str] = {
    Accepted: "accepted",
    Duplicate: "duplicate",
    DeadLettered: "dead_lettered",
    Repeated: "repeated",
    EventRepeated: "repeated",
    Returned: "returned",
}


class Intake:
    """Takes deliveries in, decides them in batches, and answers each with its own outcome."""

    def __init__(
        self,
        database: Database,
        events: Events,
        metrics: Metrics,
        *,
        batch_size: int,
        handover: Handover,
        recorded: Recorded,
        large: Publisher,
        senders_wait: bool = False,
    ) -> None:
        """`senders_wait`: no broker keeps what is given back, so its sender hears it at once."""
        self._senders_wait = senders_wait
        self._database = database
        self._events = events
        self._metrics = metrics
        self._batch_size = batch_size
        self._handover = handover
        self._recorded = recorded
        self._large = large
        self._one_at_a_time = asyncio.Lock()
        self._waiting: deque[Entry] = deque()
        self._later: dict[Entry, asyncio.TimerHandle] = {}
        self._arrived = asyncio.Event()
        self._abandoned = asyncio.Event()
        self._storing = False
        """Whether the transaction runs statements: past the login, and before its commit."""
        self.batch_in_hand = False
        self.attempts = 0
        """Transactions that were begun so far: grows while a batch in hand makes progress."""
        self.away_since: float | None = None
        """Since when the database has been away, on the monotonic clock in seconds."""

    async def submit(self, subject: Candidate | Refused) -> Outcome:
        """Decide and store `subject`; returns once that is committed.

        Raises:
            DatabaseAwayError, BrokerAwayError: intake was told to abandon what it cannot store.
            StorageRefusedError: the database will never take this one.
            TooManyReturnsError: the broker is to set it aside.
        """
        entry = Entry(subject, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        self._arrived.set()
        outcome = await entry.waiter
        subject = entry.subject  # by now it may be one that the database refused
        match outcome:
            case DeadLettered(refused, letter_id) if not refused.keeps_body:
                await self._publish_large(refused, letter_id, subject.delivery.received_at)
            case Repeated(letter_id, at) if isinstance(subject, Refused) and not subject.keeps_body:
                await self._publish_large(subject, letter_id, at)
            case Returned(body_is_stored=False):
                await self._pass_back(outcome)
        return outcome

    def abandon(self) -> None:
        """Give back what cannot be stored, at once and from now on, until `resume()`."""
        self._abandoned.set()

    def resume(self) -> None:
        """Hold what cannot be stored and try again, from now on: the normal way."""
        self._abandoned.clear()
        self.away_since = None

    async def close(self) -> None:
        """Close what passing large bodies on has opened."""
        await self._large.close()

    async def run(self) -> None:
        """Take in until cancelled."""
        while True:
            await self._arrived.wait()
            await self._handover.room()
            await self.run_once()

    async def run_once(self) -> int:
        """Take in one batch of what waits; returns how many deliveries it held."""
        batch = self._next_batch()
        if batch:
            self.batch_in_hand = True
            try:
                await self._take_in(batch)
            except BaseException:
                # A defect of ours, or the end: nobody must wait for what is in nobody's hands.
                self._waiting.extendleft(entry for entry in reversed(batch) if entry.waits)
                self._arrived.set()
                raise
            finally:
                self.batch_in_hand = False
        return len(batch)

    def _next_batch(self) -> list[Entry]:
        batch: list[Entry] = []
        size = 0
        while self._waiting and len(batch) < self._batch_size:
            size += self._waiting[0].subject.delivery.bytes_to_store
            if batch and size > MAX_BATCH_BYTES:
                break
            batch.append(self._waiting.popleft())
        if not self._waiting:
            self._arrived.clear()
        return batch

    async def _take_in(self, batch: Sequence[Entry]) -> None:
        """Store the batch, however often that must be tried; one bad entry fails alone."""
        attempt = 0
        links = Links()
        # What was taken from us while we tried comes again, and is decided then.
        while batch := [entry for entry in batch if not entry.waiter.cancelled()]:
            try:
                outcomes = await self._commit(batch, links, first_attempt=attempt == 0)
            except LinksUnknownError as unknown:
                await links.ask(unknown)
            except (SQLAlchemyError, TimeoutError, OSError) as error:
                attempt += 1
                links = Links()
                failure = classify(error)
                if failure is Failure.DATA or await self._is_to_blame(attempt, error):
                    await self._isolate(batch, error)
                    return
                if failure is Failure.RACE and not self._senders_wait:
                    log(Action.INTAKE_RETRYING, logging.DEBUG, attempt=attempt, why="race")
                    await _pause(attempt, first_seconds=0.01, longest_seconds=1)
                elif not await self._wait_for_database(attempt, error):
                    self._give_back(batch, error)
                    return
            except Exception as error:  # noqa: BLE001 - a defect costs its own message, no other
                await self._isolate(batch, error, defect=True)
                return
            else:
                self._settle(outcomes)
                return

    async def _commit(
        self, batch: Sequence[Entry], links: Links, *, first_attempt: bool
    ) -> list[tuple[Entry, Outcome]]:
        """THE transaction: decide the batch by what is stored, and store what follows from it."""
        started = time.perf_counter()
        self.attempts += 1
        self._storing = False
        # Of a commit whose outcome is unknown nothing is known to hand over, and a batch that was
        # refused once goes alone.
        lease = self._handover.lease() if first_attempt else None
        leased: list[ClaimedEvent] = []
        async with self._database.transaction() as connection:
            self._storing = True
            plan = await plan_batch(
                connection,
                batch,
                self._events,
                recorded=self._recorded,
                links=links,
                first_attempt=first_attempt,
            )
            await _store(connection, plan)
            if plan.events:
                leased = plan.lease_events(lease.token) if lease else []
                await outbox.add_events(connection, plan.events)
            if plan.ours:
                await outbox.release(connection, plan.ours, token=self._handover.token)
            self._storing = False
        self._metrics.commit_seconds.observe(time.perf_counter() - started)
        self._metrics.batch_size.observe(len(batch))
        if lease and leased:
            self._handover.give(leased, lease)
        if len(leased) < len(plan.events) or plan.ours:
            self._handover.tell()
        for entry in plan.later:
            self._decide_later(entry)
        for entry in plan.gone:
            if not entry.waiter.done():
                why = "the link that it came on is gone: the broker delivers it again"
                entry.waiter.set_exception(BrokerAwayError(why))
        return plan.outcomes

    def _settle(self, outcomes: Sequence[tuple[Entry, Outcome]]) -> None:
        if self.away_since is not None:
            log(Action.INTAKE_RESUMED, away_seconds=time.monotonic() - self.away_since)
            self.away_since = None
        counts = Counter(COUNTED_AS[type(outcome)] for _, outcome in outcomes)
        for counted_as, count in counts.items():
            self._metrics.messages.labels(counted_as).inc(count)
        for entry, outcome in outcomes:
            if isinstance(outcome, DeadLettered | Repeated):
                self._recorded.hold(entry.subject.delivery, outcome.dead_letter_id)
            if isinstance(outcome, DeadLettered):
                self._tell(outcome)
            elif isinstance(outcome, Returned):
                log(
                    Action.DEAD_LETTER_RETURNED,
                    logging.WARNING,
                    reason=outcome.refused.refusal.reason,
                    dead_letter_id=outcome.dead_letter_id,
                    attempts=outcome.attempts,
                )
            if not entry.waiter.done():
                entry.waiter.set_result(outcome)

    def _decide_later(self, entry: Entry) -> None:
        def again() -> None:
            del self._later[entry]
            self._waiting.append(entry)
            self._arrived.set()

        self._later[entry] = asyncio.get_running_loop().call_later(LATER_SECONDS, again)

    def _tell(self, outcome: DeadLettered) -> None:
        refusal = outcome.refused.refusal
        self._metrics.dead_letters.labels(refusal.reason).inc()
        log(
            Action.DEAD_LETTERED,
            logging.WARNING,
            reason=refusal.reason,
            details=refusal.details,
            dead_letter_id=outcome.dead_letter_id,
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
        if self._senders_wait:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await self._abandoned.wait()
        return not self._abandoned.is_set()

    async def _is_to_blame(self, attempt: int, error: Exception) -> bool:
        """Whether a batch fails again and again on a database that takes other writes.

        Not where its login or its COMMIT failed, which name no row; nor where it waited for
        another's lock, the user lacks a right, or the server speaks of itself: none of that is in
        the message.
        """
        if not self._storing or isinstance(error, TimeoutError) or classify(error) is Failure.RACE:
            return False
        if error_number(error) in RIGHT_ERRORS | SERVER_ERRORS or file_error(error) is not None:
            return False
        return attempt >= SUSPICIOUS_ATTEMPTS and await takes_writes(self._database)

    async def _isolate(
        self, batch: Sequence[Entry], error: Exception, *, defect: bool = False
    ) -> None:
        """Retry entries one by one to isolate the one that cannot be stored; refuse that one.

        What the database will not take becomes a dead letter, and that failing, a shortened one.
        A message that meets a defect of ours is left to the broker: the next release may have none.
        So is one under which the link breaks again and again, unless no packet is large enough for
        it: somebody may be ending our sessions, and none of that is in the message.
        """
        if len(batch) > 1:
            for entry in batch:
                await self._take_in([entry])
            return
        (entry,) = batch
        if entry.waiter.done():
            return
        blameless = defect or (link_lost(error) and await self._fits_a_packet(entry))
        less = None if blameless else refused_by_database(entry.subject, error)
        if less is not None:
            entry.subject = less
            await self._take_in([entry])
            return
        refused = StorageRefusedError("the database will not take this message")
        refused.__cause__ = error
        entry.waiter.set_exception(refused)

    async def _fits_a_packet(self, entry: Entry) -> bool:
        """Whether the server takes statements of this size; True where it cannot be asked."""
        try:
            largest = await largest_packet(self._database)
        except (SQLAlchemyError, TimeoutError, OSError):
            return True
        return entry.subject.delivery.statement_bytes <= largest

    def _give_back(self, batch: Sequence[Entry], error: Exception) -> None:
        """Fail everything that waits: the broker keeps it, and it comes again."""
        waiting = [*batch, *self._waiting, *self._later]
        self._waiting.clear()
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()
        self._arrived.clear()
        for entry in waiting:
            if not entry.waiter.done():
                away = DatabaseAwayError("the database is away; the broker keeps the message")
                away.__cause__ = error
                entry.waiter.set_exception(away)

    async def _pass_back(self, returned: Returned) -> None:
        """Back to the dead-letter queue with a body that no row has: there alone it is kept.

        What leads everything published here back to us would have us do that for ever, so it is
        done only so often. After that the broker sets the message aside, without publishing it.

        Raises:
            TooManyReturnsError: it was done as often as it may be.
        """
        await asyncio.sleep(PASS_BACK_SECONDS)
        if returned.attempts > MOST_PASSES:
            raise TooManyReturnsError(f"dead letter {returned.dead_letter_id} came back too often")
        letter_id, received_at = returned.dead_letter_id, returned.received_at
        await self._publish(self._events.returned(returned.refused, letter_id, received_at))

    async def _publish_large(
        self, refused: Refused, dead_letter_id: str, received_at: datetime
    ) -> None:
        """Pass a body on that no row takes, once it is recorded and before it is acknowledged.

        Where we die in between it comes again, is recognised, and is passed on under the same id.
        """
        await self._publish(self._events.dead_letter(refused, dead_letter_id, received_at))

    async def _publish(self, row: Row) -> None:
        """Publish without the outbox, until it is confirmed.

        Raises:
            BrokerAwayError: intake was told to abandon what it cannot store.
        """
        event = to_publish(row)
        attempt = 0
        async with self._one_at_a_time:
            while not self._abandoned.is_set():
                with contextlib.suppress(BrokerAwayError):
                    (outcome,) = await self._large.publish([event])
                    if isinstance(outcome, Confirmed):
                        return
                attempt += 1
                await _pause(attempt, first_seconds=0.5, longest_seconds=5)
        raise BrokerAwayError("a body too large to be stored could not be passed on")


def refused_by_database(subject: Candidate | Refused, error: Exception) -> Refused | None:
    """What to store in place of a message that the database will not take; None: nothing less."""
    if isinstance(subject, Candidate):
        number = error_number(error)
        why = type(error).__name__ if number is None else f"error {number}"
        refusal = Refusal(FailureReason.UNSTORABLE, f"the database will not take it: {why}")
        return Refused(refusal, subject.delivery, subject.order.order_id)
    return None if subject.shortened else replace(subject, shortened=True)


async def _pause(attempt: int, *, first_seconds: float, longest_seconds: float) -> None:
    delay = delay_after(attempt, first_seconds=first_seconds, longest_seconds=longest_seconds)
    await asyncio.sleep(delay.total_seconds())


async def _store(connection: AsyncConnection, plan: Plan) -> None:
    """Write orders and dead letters; their events are the transaction's own affair."""
    if plan.orders:
        await orders.insert_orders(connection, plan.orders)
    if plan.dead_letters:
        await dead_letters.insert_dead_letters(connection, plan.dead_letters)
    if plan.refused_again:
        await dead_letters.count_attempts(connection, plan.refused_again)
    if plan.redriven:
        await dead_letters.mark_redriven(connection, plan.redriven)
