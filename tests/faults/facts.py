"""What was sent and what is stored, side by side: by key, by id, by what tells a message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tests.faults.contract import (
    ID_CONFLICT,
    KEY_CONFLICT,
    Content,
    content_of,
    digest,
    identity,
    items_of,
)
from tests.faults.journal import Attempt, Observed
from tests.faults.tables import DeadLetterRow, OrderRow, Tables


@dataclass(frozen=True)
class History:
    """What the journals say. `confirmed` holds attempt ids."""

    attempts: Sequence[Attempt]
    confirmed: frozenset[str]
    observed: Sequence[Observed] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True)
class Depth:
    """A queue at rest."""

    queue: str
    ready: int
    unacknowledged: int
    held_seconds: float = 0.0
    """For how long some message of it has been unacknowledged without a break."""


@dataclass(frozen=True)
class Facts:
    """History and tables, indexed."""

    history: History
    tables: Tables

    @cached_property
    def sent_under(self) -> dict[str, set[Content]]:
        """Each key's valid contents."""
        found = defaultdict[str, set[Content]](set)
        for attempt in self.history.attempts:
            if attempt.reason is None:
                content = content_of(attempt.body)
                found[content.key].add(content)
        return found

    @cached_property
    def stored(self) -> dict[str, Content]:
        """Each stored key's content; where the row is wrong, that of the message it must be of."""
        found = {}
        for row in self.tables.orders:
            content, sent = content_of_row(row), self.sent_under.get(row.key, set())
            meant = [each for each in sent if each.order_id == row.order_id]
            found[row.key] = meant[0] if content not in sent and len(meant) == 1 else content
        return found

    @cached_property
    def key_of_id(self) -> dict[str, str]:
        return {row.order_id: row.key for row in self.tables.orders}

    @cached_property
    def attempts_of(self) -> dict[str, list[Attempt]]:
        """The attempts of each identity, in the order of the journal."""
        found = defaultdict[str, list[Attempt]](list)
        for attempt in self.history.attempts:
            found[identity(attempt)].append(attempt)
        return dict(found)

    @cached_property
    def dead_letters_of(self) -> dict[str, list[DeadLetterRow]]:
        """The dead letters of each identity; what nobody sent is under its body's digest."""
        found = defaultdict[str, list[DeadLetterRow]](list)
        for row in self.tables.dead_letters:
            found[self.identify(row.trace, row.body_digest)].append(row)
        return dict(found)

    def identify(self, trace: str | None, body_digest: str) -> str:
        return trace if trace in self.attempts_of and trace is not None else body_digest

    def is_order(self, attempt: Attempt) -> bool:
        """Whether it is stored as an order, by itself or by another message that says the same."""
        if attempt.reason is not None:
            return False
        content = content_of(attempt.body)
        return self.stored.get(content.key) == content

    def reasons(self, attempt: Attempt) -> set[str]:
        """Why it may have been refused, given what is stored; nothing where nothing is in its way.

        With its key and its id in two other orders, the one that was stored first is the reason.
        """
        if attempt.reason is not None:
            return {attempt.reason}
        content = content_of(attempt.body)
        reasons = set()
        if content.key in self.stored:
            reasons.add(KEY_CONFLICT)
        if self.key_of_id.get(content.order_id, content.key) != content.key:
            reasons.add(ID_CONFLICT)
        return reasons


def content_of_row(row: OrderRow) -> Content:
    return Content(row.order_id, row.user_id, row.total_amount, row.key, items_of(row.items))


def value_of(attempt: Attempt) -> str:
    """What attempts with the same bytes have in common."""
    return digest(attempt.body)
