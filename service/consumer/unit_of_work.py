"""What one transaction writes: a batch of deliveries, decided by what is stored."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from db import dead_letters, orders, outbox
from db.dead_letters import Unacknowledged
from db.outbox import ClaimedEvent
from db.records import Taken
from service.consumer.link_checks import Links, LinksUnknownError
from service.consumer.recorded import SETTLING_SECONDS, Recorded
from service.domain.decision import Accepted, Conflict, Duplicate, TakenOrders
from service.inbound import Candidate, Refused
from service.outbox.envelope import Events, Row, dead_letter_row, new_id, order_row, to_publish
from service.rabbitmq.connection import LINK_FAILURES
from service.rabbitmq.origin import dead_letter_ids


@dataclass(frozen=True, slots=True)
class DeadLettered:
    """Recorded as a dead letter, its OrderFailed and its copy in the outbox."""

    refused: Refused
    dead_letter_id: str


@dataclass(frozen=True, slots=True)
class Repeated:
    """A redelivery of what is recorded as a dead letter already: nothing was done."""

    dead_letter_id: str
    received_at: datetime


@dataclass(frozen=True, slots=True)
class Returned:
    """A dead letter that was moved back, and refused again: one more attempt, and no event."""

    refused: Refused
    dead_letter_id: str
    received_at: datetime
    attempts: int
    body_is_stored: bool


@dataclass(frozen=True, slots=True)
class EventRepeated:
    """An event of our own that is recorded already: nothing was done."""


Outcome = Accepted | Duplicate | DeadLettered | Repeated | Returned | EventRepeated


@dataclass(eq=False, slots=True)
class Entry:
    """One delivery that waits for its outcome."""

    subject: Candidate | Refused
    waiter: asyncio.Future[Outcome]
    _dead_letter_id: str = ""
    _event_id: str = ""
    _waits_until: float | None = None

    @property
    def dead_letter_id(self) -> str:
        """The same for each attempt to store it: by this it is found where that is unknown."""
        self._dead_letter_id = self._dead_letter_id or new_id()
        return self._dead_letter_id

    @property
    def event_id(self) -> str:
        """Of its OrderProcessed or OrderFailed, the same for each attempt to store it."""
        self._event_id = self._event_id or new_id()
        return self._event_id

    def may_wait(self) -> bool:
        """Whether other processes may still mark what looks like an earlier delivery of this."""
        now = time.monotonic()
        if self._waits_until is None:
            self._waits_until = now + SETTLING_SECONDS
        return now < self._waits_until

    @property
    def waits(self) -> bool:
        """Whether its outcome is still to come."""
        return not self.waiter.done()

    @property
    def channel(self) -> Any | None:
        """The channel that it was delivered on; None where that is closed."""
        try:
            return self.subject.delivery.raw.channel
        except LINK_FAILURES:
            return None

    @property
    def first(self) -> bool:
        """Whether it was delivered to nobody before, and not taken from us since."""
        return self.subject.delivery.first and not self.waiter.cancelled()


@dataclass(slots=True)
class Plan:
    """The rows to insert, and what each entry gets to know once they are committed."""

    orders: list[Row] = field(default_factory=list)
    dead_letters: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    outcomes: list[tuple[Entry, Outcome]] = field(default_factory=list)
    ours: list[str] = field(default_factory=list)
    """Ids of events that an earlier attempt has stored, whose COMMIT was not answered."""
    gone: list[Entry] = field(default_factory=list)
    """Delivered on a link that does not hold: the broker delivers them again."""
    later: list[Entry] = field(default_factory=list)
    """To be decided again in a while; nothing is written for them."""
    refused_again: list[str] = field(default_factory=list)
    """Dead letters that came back, once for each time."""
    redriven: list[str] = field(default_factory=list)
    """Dead letters that came back, and are orders or repetitions of orders."""
    waiting: set[str] = field(default_factory=set)
    """Ids of orders that have an earlier event which is not published."""

    def lease_events(self, token: str) -> list[ClaimedEvent]:
        """Give to the holder of `token` from birth what has nothing of its aggregate before it."""
        leased: list[ClaimedEvent] = []
        behind = {("order", order_id) for order_id in self.waiting}
        for row in self.events:
            aggregate = (row["aggregate_type"], row["aggregate_id"])
            if aggregate not in behind:
                behind.add(aggregate)
                row["lease_token"] = token
                leased.append(to_publish(row))
        return leased


async def plan_batch(
    connection: AsyncConnection,
    batch: Sequence[Entry],
    events: Events,
    *,
    recorded: Recorded,
    links: Links,
    first_attempt: bool,
) -> Plan:
    """Decide each entry by what is stored and by the entries before it.

    Raises:
        LinksUnknownError: whether some links still hold has to be asked, outside of a transaction.
    """
    ours: list[str] = []
    if not first_attempt:
        ids = [each for entry in batch for each in (entry.event_id, entry.dead_letter_id)]
        ours = sorted(await outbox.find_stored(connection, ids))
    stored, refused = await _find_taken(connection, batch), list[tuple[Entry, Refused]]()
    plan, taken = Plan(waiting=stored.waiting, ours=ours), TakenOrders(stored.orders)
    returned = await _find_returned(connection, batch)
    now = datetime.now(UTC)
    for entry in batch:
        if isinstance(entry.subject, Refused):
            refused.append((entry, entry.subject))
            continue
        candidate = entry.subject
        match taken.decide(candidate.order, candidate.fingerprint):
            case Accepted() as accepted:
                taken.add(candidate.order, candidate.fingerprint)
                plan.orders.append(order_row(candidate, now))
                plan.events.append(events.processed(candidate, entry.event_id, now))
                plan.outcomes.append((entry, accepted))
            case Duplicate() as duplicate:
                own = entry.event_id in plan.ours
                plan.outcomes.append((entry, Accepted() if own else duplicate))
            case Conflict(refusal):
                conflict = Refused(refusal, candidate.delivery, candidate.order.order_id)
                refused.append((entry, conflict))
                continue
        if entry in returned:
            plan.redriven.append(returned[entry].dead_letter_id)
    # The same order of locks everywhere: fewer deadlocks between processes.
    plan.orders.sort(key=lambda row: row["order_id"])
    refused = _plan_returned(plan, refused, returned)
    refused = await _plan_own_events(connection, plan, refused)
    if refused:
        await _plan_dead_letters(
            connection,
            plan,
            refused,
            events,
            recorded=recorded,
            links=links,
            first_attempt=first_attempt,
        )
    return plan


async def _find_taken(connection: AsyncConnection, batch: Sequence[Entry]) -> Taken:
    wanted = [each.subject.order for each in batch if isinstance(each.subject, Candidate)]
    if not wanted:
        return Taken([], set())
    return await orders.find_taken(
        connection,
        idempotency_keys={order.idempotency_key for order in wanted},
        order_ids={order.order_id for order in wanted},
    )


async def _find_returned(
    connection: AsyncConnection, batch: Sequence[Entry]
) -> dict[Entry, dead_letters.Returned]:
    """The dead letters of this installation that have come back, with the body they had.

    One with another body is another message: mended by hand, perhaps. What was recorded without a
    body is known by its id alone.
    """
    claims = {entry: dead_letter_ids(entry.subject.delivery.raw) for entry in batch}
    claimed = {each for ids in claims.values() for each in ids}
    if not claimed:
        return {}
    known = await dead_letters.find_returned(connection, claimed)
    found = {
        entry: letter
        for entry, ids in claims.items()
        for each in ids
        if (letter := known.get(each)) is not None
        and letter.body_bytes in {0, len(entry.subject.delivery.body)}
    }
    compared = {letter.dead_letter_id for letter in found.values() if letter.body_bytes}
    bodies = await dead_letters.read_bodies(connection, compared) if compared else {}
    return {
        entry: letter
        for entry, letter in found.items()
        if not letter.body_bytes or bodies.get(letter.dead_letter_id) == entry.subject.delivery.body
    }


def _plan_returned(
    plan: Plan,
    refused: Sequence[tuple[Entry, Refused]],
    returned: Mapping[Entry, dead_letters.Returned],
) -> list[tuple[Entry, Refused]]:
    """Count the attempt of each dead letter that came back; returns what is none."""
    others = list[tuple[Entry, Refused]]()
    for entry, subject in refused:
        if (letter := returned.get(entry)) is None:
            others.append((entry, subject))
            continue
        letter_id = letter.dead_letter_id
        attempts = letter.attempts + plan.refused_again.count(letter_id) + 1
        plan.refused_again.append(letter_id)
        body_is_stored = letter.body_bytes == len(subject.delivery.body)
        outcome = Returned(subject, letter_id, letter.received_at, attempts, body_is_stored)
        plan.outcomes.append((entry, outcome))
    return others


async def _plan_own_events(
    connection: AsyncConnection, plan: Plan, refused: Sequence[tuple[Entry, Refused]]
) -> list[tuple[Entry, Refused]]:
    """Record each event of ours that came back once, without an event; returns what is none."""
    own = [(entry, subject) for entry, subject in refused if subject.own_event is not None]
    if not own:
        return list(refused)
    digests = {subject.digest() for _, subject in own}
    recorded = set(await dead_letters.last_occurrences(connection, digests))
    for entry, subject in own:
        digest = subject.digest()
        if digest in recorded:
            plan.outcomes.append((entry, EventRepeated()))
            continue
        recorded.add(digest)
        plan.dead_letters.append(dead_letter_row(subject, entry.dead_letter_id, digest, 1))
        plan.outcomes.append((entry, DeadLettered(subject, entry.dead_letter_id)))
    return [(entry, subject) for entry, subject in refused if subject.own_event is None]


async def _plan_dead_letters(
    connection: AsyncConnection,
    plan: Plan,
    refused: Sequence[tuple[Entry, Refused]],
    events: Events,
    *,
    recorded: Recorded,
    links: Links,
    first_attempt: bool,
) -> None:
    """Give each refused delivery a dead letter of its own, unless it has one.

    AMQP gives a delivery no identity. A first delivery is a new message even where equal ones were
    recorded. A redelivery is matched with a recorded one whose message may be delivered again
    (`recorded`), each with another; where none is left, it is a new message. Two processes that
    record the same delivery at once collide on (digest, occurrence), and one tries again.

    Raises:
        LinksUnknownError: whether some links still hold has to be asked, outside of a transaction.
    """
    digests = [subject.digest() for _, subject in refused]
    before = await dead_letters.last_occurrences(connection, set(digests))
    known_before = [
        (entry, digest)
        for (entry, _), digest in zip(refused, digests, strict=True)
        if digest in before
    ]
    # A process that was stopped for a while finds deliveries in its buffers that the broker has
    # given to another one since. Asked only where an equal message was recorded.
    if any(not links.asked(entry.channel, each, before[each]) for entry, each in known_before):
        raise LinksUnknownError([entry.channel for entry, _ in known_before], before)
    ours, candidates = set[str](), dict[bytes, deque[Unacknowledged]]()
    if not first_attempt:
        ids = [entry.dead_letter_id for entry, _ in refused]
        ours = await dead_letters.find_stored(connection, ids)
    if not all(entry.first for entry, _ in known_before):
        candidates = await _find_candidates(connection, before, recorded)
    known = {entry for entry, _ in known_before}
    for (entry, subject), digest in zip(refused, digests, strict=True):
        letter_id = entry.dead_letter_id
        if letter_id in ours:
            plan.outcomes.append((entry, DeadLettered(subject, letter_id)))
            continue
        if entry in known and not links.hold(entry.channel):
            plan.gone.append(entry)
            continue
        if not entry.first and candidates.get(digest):
            candidate = candidates[digest].popleft()
            if entry.may_wait():
                plan.later.append(entry)
            else:
                repeated = Repeated(candidate.dead_letter_id, candidate.received_at)
                plan.outcomes.append((entry, repeated))
            continue
        before[digest] = before.get(digest, 0) + 1
        plan.dead_letters.append(dead_letter_row(subject, letter_id, digest, before[digest]))
        plan.events.append(events.failed(subject, letter_id, entry.event_id))
        if subject.keeps_body:
            plan.events.append(events.dead_letter(subject, letter_id, subject.delivery.received_at))
        plan.outcomes.append((entry, DeadLettered(subject, letter_id)))


async def _find_candidates(
    connection: AsyncConnection, digests: Collection[bytes], recorded: Recorded
) -> dict[bytes, deque[Unacknowledged]]:
    """By digest, the dead letters that a redelivery may stand for."""
    candidates = defaultdict[bytes, deque[Unacknowledged]](deque)
    found = await dead_letters.find_unacknowledged(connection, digests)
    held = recorded.held()
    for each in found:
        if each.dead_letter_id not in held:
            candidates[each.message_digest].append(each)
    return candidates
