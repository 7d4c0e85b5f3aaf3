"""What one transaction writes: a batch of deliveries, decided by what is stored."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from db import dead_letters, orders
from db.outbox import ClaimedEvent
from db.records import Taken
from service.delivery import Delivery
from service.events import Events, Row, dead_letter_row, new_id, order_row, to_publish
from service.link import LINK_FAILURES, loss_as_error
from service.orders import Accepted, Candidate, Conflict, Duplicate, Refused, TakenOrders

LINK_ANSWER_SECONDS = 5.0


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


Outcome = Accepted | Duplicate | DeadLettered | Repeated


@dataclass(eq=False, slots=True)
class Entry:
    """One delivery that waits for its outcome."""

    subject: Candidate | Refused
    waiter: asyncio.Future[Outcome]
    _dead_letter_id: str = ""

    @property
    def dead_letter_id(self) -> str:
        """The same for each attempt to store it: by this it is found where that is unknown."""
        self._dead_letter_id = self._dead_letter_id or new_id()
        return self._dead_letter_id

    @property
    def waits(self) -> bool:
        """Whether its outcome is still to come."""
        return not self.waiter.done()

    @property
    def size(self) -> int:
        """Bytes of the body that will be stored."""
        return len(self.subject.delivery.body) if self.subject.delivery.storable else 0

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
    connection: AsyncConnection, batch: Sequence[Entry], events: Events, *, first_attempt: bool
) -> Plan:
    """Decide each entry by what is stored and by the entries before it."""
    stored, refused = await _find_taken(connection, batch), list[tuple[Entry, Refused]]()
    plan, taken = Plan(waiting=stored.waiting), TakenOrders(stored.orders)
    now = datetime.now(UTC)
    for entry in batch:
        if isinstance(entry.subject, Refused):
            refused.append((entry, entry.subject))
            continue
        candidate = entry.subject
        match taken.decide(candidate):
            case Accepted() as accepted:
                taken.add(candidate)
                plan.orders.append(order_row(candidate, now))
                plan.events.append(events.processed(candidate, now))
                plan.outcomes.append((entry, accepted))
            case Duplicate() as duplicate:
                plan.outcomes.append((entry, duplicate))
            case Conflict(refusal):
                conflict = Refused(refusal, candidate.delivery, candidate.order.order_id)
                refused.append((entry, conflict))
    # The same order of locks everywhere: fewer deadlocks between processes.
    plan.orders.sort(key=lambda row: row["order_id"])
    if refused:
        await _plan_dead_letters(
            connection, plan, refused, events, now=now, first_attempt=first_attempt
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


async def _link_holds(delivery: Delivery) -> bool:
    """Whether the link that this was delivered on is still one: asked of the broker.

    While it is, the broker has given an unacknowledged message to nobody else.
    """
    try:
        async with asyncio.timeout(LINK_ANSWER_SECONDS):
            with loss_as_error():
                await delivery.raw.channel.queue_declare(delivery.queue, passive=True)
    except LINK_FAILURES:
        return False
    return True


async def _plan_dead_letters(
    connection: AsyncConnection,
    plan: Plan,
    refused: Sequence[tuple[Entry, Refused]],
    events: Events,
    *,
    now: datetime,
    first_attempt: bool,
) -> None:
    """Give each refused delivery a dead letter of its own, unless it has one.

    AMQP gives a delivery no identity. A first delivery is a new message even where equal ones were
    recorded; of the others, as many are taken for recorded ones as there are. Two who record the
    same delivery at once collide on (digest, occurrence), and one tries again.
    """
    digests = [subject.delivery.digest() for _, subject in refused]
    before = await dead_letters.last_occurrences(connection, set(digests))
    ours = set[str]()
    if not first_attempt:
        ids = [entry.dead_letter_id for entry, _ in refused]
        ours = await dead_letters.find_stored(connection, ids)
    # A process that was stopped for a while finds deliveries in its buffers that look like first
    # ones, and were somebody else's since. Asked only where an equal message was recorded.
    known_firsts = [
        subject.delivery
        for (entry, subject), digest in zip(refused, digests, strict=True)
        if digest in before and entry.first
    ]
    undisturbed = not known_firsts or await _link_holds(known_firsts[0])
    last, repeated = dict(before), Counter[bytes]()
    for (entry, subject), digest in zip(refused, digests, strict=True):
        letter_id = entry.dead_letter_id
        if letter_id in ours:
            plan.outcomes.append((entry, DeadLettered(subject, letter_id)))
            continue
        is_first = entry.first and undisturbed
        if not is_first and repeated[digest] < before.get(digest, 0):
            repeated[digest] += 1
            recorded = await dead_letters.find_recorded(connection, digest, repeated[digest])
            plan.outcomes.append((entry, Repeated(*recorded)))
            continue
        last[digest] = last.get(digest, 0) + 1
        plan.dead_letters.append(dead_letter_row(subject, letter_id, digest, last[digest]))
        plan.events.append(events.failed(subject, letter_id, now))
        if subject.delivery.storable:
            plan.events.append(events.dead_letter(subject, letter_id, subject.delivery.received_at))
        plan.outcomes.append((entry, DeadLettered(subject, letter_id)))
