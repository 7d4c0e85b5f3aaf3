"""What a checker says: which invariants were violated, with examples, and the sums of it.

The sums are those of the RabbitMQ Jepsen suite. Their unit is a message by its content: what was
published again because no confirm was had is one message, if its bytes are the same.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

MOST_EXAMPLES = 5
# Above what the service waits for an answer of either server, and for what others may still mark.
HELD_SECONDS = 40.0
# An event is in flight in one cycle, where a fault strikes a few times.
MOST_PUBLICATIONS = 12
# A dead letter, its OrderFailed and its copy; and the record of that OrderFailed, if it came back.
MOST_ROWS = 4


class Invariant(StrEnum):
    """What must hold at rest."""

    NOTHING_LOST = "nothing-lost"
    """What was confirmed is an order, or a repetition of one, or a dead letter."""
    NOTHING_UNEXPECTED = "nothing-unexpected"
    """No order and no dead letter that nobody has sent."""
    ONE_ORDER_PER_KEY = "one-order-per-key"
    ONE_ORDER_PER_ID = "one-order-per-id"
    ORDER_EQUALS_INPUT = "order-equals-input"
    """Order id, user, amount, key and items are those of one message under this key."""
    ONE_DEAD_LETTER_PER_MESSAGE = "one-dead-letter-per-message"
    """At least one for each confirmed attempt that was refused, at most one for each attempt."""
    NO_DEAD_LETTER_FOR_AN_ORDER = "no-dead-letter-for-an-order"
    """What is stored as an order, or repeats one, is no dead letter."""
    DEAD_LETTER_KEEPS_THE_BYTES = "dead-letter-keeps-the-bytes"
    DEAD_LETTER_HAS_ITS_REASON = "dead-letter-has-its-reason"
    ONE_EVENT_PER_ORDER = "one-event-per-order"
    """One event id of type OrderProcessed, and its payload is of that order."""
    ONE_FAILURE_PER_DEAD_LETTER = "one-failure-per-dead-letter"
    ONE_COPY_PER_DEAD_LETTER = "one-copy-per-dead-letter"
    NO_EVENT_WITHOUT_CAUSE = "no-event-without-cause"
    """Each event observed is one of the outbox, and of an order or dead letter that is there."""
    EVERY_EVENT_OBSERVED = "every-event-observed"
    SAME_EVENT_SAME_PAYLOAD = "same-event-same-payload"
    EVENT_IS_WELL_FORMED = "event-is-well-formed"
    """Persistent, with the content type, headers and fields of the contract."""
    REPEATS_ARE_BOUNDED = "repeats-are-bounded"
    """No event is published more than `MOST_PUBLICATIONS` times."""
    ROWS_ARE_BOUNDED = "rows-are-bounded"
    """No more than `MOST_ROWS` dead letters and events for each attempt, all together."""
    ONE_RECORD_PER_RETURNED_EVENT = "one-record-per-returned-event"
    """An event of the service that comes back to it is recorded once, and is one of the outbox."""
    EVENTS_IN_ORDER = "events-in-order"
    """An order's OrderProcessed is observed before the conflicts with it."""
    NOTHING_WAITS = "nothing-waits"
    """No message is ready or unacknowledged, and no event is pending."""
    NOTHING_HELD = "nothing-held"
    """While nothing is sent, no message is unacknowledged for longer than `HELD_SECONDS`."""
    NOTHING_PARKED = "nothing-parked"


@dataclass(slots=True)
class Violation:
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Sums:
    attempts: int = 0
    acknowledged: int = 0
    ok: int = 0
    """Took effect."""
    lost: int = 0
    """Acknowledged, without effect."""
    unexpected: int = 0
    """Rows and events that nobody caused."""
    duplicated: int = 0
    """Deliveries of events that were observed before: allowed, and told."""
    recovered: int = 0
    """Took effect and was never acknowledged."""
    publishings: int = 0
    """Attempts on the wire, those of the same bytes too."""
    orders: int = 0
    dead_letters: int = 0

    def plus(self, other: Sums) -> Sums:
        return Sums(**{name: count + getattr(other, name) for name, count in asdict(self).items()})


@dataclass(slots=True)
class Verdict:
    violations: dict[Invariant, Violation] = field(default_factory=dict)
    sums: Sums = field(default_factory=Sums)

    @property
    def holds(self) -> bool:
        return not self.violations

    @property
    def names(self) -> set[Invariant]:
        return set(self.violations)

    def violate(self, invariant: Invariant, example: str) -> None:
        violation = self.violations.setdefault(invariant, Violation())
        violation.count += 1
        if len(violation.examples) < MOST_EXAMPLES:
            violation.examples.append(example)

    def as_json(self) -> dict[str, Any]:
        violations = {str(name): asdict(each) for name, each in self.violations.items()}
        return {"holds": self.holds, "violations": violations, "sums": asdict(self.sums)}

    def __str__(self) -> str:
        lines = [f"{name}: {each.count}" for name, each in self.violations.items()]
        examples = [f"  {text}" for each in self.violations.values() for text in each.examples]
        sums = ", ".join(f"{name} {value}" for name, value in asdict(self.sums).items())
        return "\n".join([*(lines or ["every invariant holds"]), *examples, sums])


def surplus(counts: Counter[Any], allowed: int = 1) -> dict[Any, int]:
    """What is there more often than it may be."""
    return {each: count for each, count in counts.items() if count > allowed}
