"""The judge: do the journals and the tables, at rest, keep the promise?

It knows the contract and nothing of how the service keeps it. `check` is a pure function; what it
is given was read by others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tests.faults.checker_events import check_events
from tests.faults.contract import LARGEST_STORED, digest
from tests.faults.facts import Depth, Facts, History, content_of_row, value_of
from tests.faults.journal import Attempt
from tests.faults.tables import Tables
from tests.faults.verdict import HELD_SECONDS, MOST_ROWS, Invariant, Verdict, surplus

__all__ = ["Depth", "History", "check"]


def check(
    history: History, tables: Tables, depths: Sequence[Depth] = (), *, parks: bool = False
) -> Verdict:
    """Judge what is there at rest. With `parks`, events that are set aside are no violation."""
    verdict = Verdict()
    facts = Facts(history, tables)
    _check_orders(verdict, facts)
    _check_messages(verdict, facts)
    check_events(verdict, facts, parks=parks)
    _check_growth(verdict, facts)
    _check_rest(verdict, tables, depths, parks=parks)
    _sum_up(verdict, facts)
    return verdict


def _check_orders(verdict: Verdict, facts: Facts) -> None:
    orders = facts.tables.orders
    for key, count in surplus(Counter(row.key for row in orders)).items():
        verdict.violate(Invariant.ONE_ORDER_PER_KEY, f"key {key}: {count} orders")
    for order_id, count in surplus(Counter(row.order_id for row in orders)).items():
        verdict.violate(Invariant.ONE_ORDER_PER_ID, f"order {order_id}: {count} rows")
    for row in orders:
        sent = facts.sent_under.get(row.key)
        if not sent:
            verdict.violate(Invariant.NOTHING_UNEXPECTED, f"order {row.order_id}, key {row.key}")
        elif content_of_row(row) not in sent or row.status != "PROCESSED":
            verdict.violate(Invariant.ORDER_EQUALS_INPUT, f"{row} was sent as {sent}")


def _check_messages(verdict: Verdict, facts: Facts) -> None:
    """Each message is an order, or as many dead letters as it was sent with confirms."""
    for name, attempts in facts.attempts_of.items():
        _check_message(verdict, facts, name, attempts)
    for name, rows in facts.dead_letters_of.items():
        if name not in facts.attempts_of:
            told = f"dead letter {rows[0].dead_letter_id}: {rows[0].reason}, trace {rows[0].trace}"
            verdict.violate(Invariant.NOTHING_UNEXPECTED, told)


def _check_message(verdict: Verdict, facts: Facts, name: str, attempts: list[Attempt]) -> None:
    """`attempts` have the same identity, and so the same bytes or one member only."""
    attempt = attempts[0]
    rows = facts.dead_letters_of.get(name, [])
    confirmed = sum(each.attempt_id in facts.history.confirmed for each in attempts)
    told = f"{attempt.kind} {name} (order {attempt.order_id}, key {attempt.key})"
    if facts.is_order(attempt):
        if rows:
            verdict.violate(
                Invariant.NO_DEAD_LETTER_FOR_AN_ORDER, f"{told}: also refused as {rows[0].reason}"
            )
        return
    if len(rows) < confirmed:
        verdict.violate(
            Invariant.NOTHING_LOST, f"{told}: {confirmed} confirmed, {len(rows)} dead letters"
        )
    if len(rows) > len(attempts):
        verdict.violate(
            Invariant.ONE_DEAD_LETTER_PER_MESSAGE,
            f"{told}: sent {len(attempts)} times, {len(rows)} dead letters",
        )
    reasons = facts.reasons(attempt)
    for row in rows:
        if row.reason not in reasons:
            verdict.violate(
                Invariant.DEAD_LETTER_HAS_ITS_REASON, f"{told}: {row.reason}, not {reasons}"
            )
        too_large_to_store = len(attempt.body) > LARGEST_STORED and row.body_bytes == 0
        if row.body_digest != digest(attempt.body) and not too_large_to_store:
            verdict.violate(
                Invariant.DEAD_LETTER_KEEPS_THE_BYTES,
                f"{told}: {len(attempt.body)} bytes sent, {row.body_bytes} others stored",
            )


def _check_growth(verdict: Verdict, facts: Facts) -> None:
    """What came of the messages, and of what was published of them and came back."""
    tables, attempts = facts.tables, len(facts.history.attempts)
    rows = len(tables.dead_letters) + len(tables.outbox) + len(tables.returned)
    if rows > MOST_ROWS * attempts:
        verdict.violate(
            Invariant.ROWS_ARE_BOUNDED, f"{rows} dead letters and events of {attempts} messages"
        )
    for event_id, count in surplus(Counter(tables.returned)).items():
        verdict.violate(Invariant.ONE_RECORD_PER_RETURNED_EVENT, f"{event_id}: {count} records")
    for event_id in set(tables.returned) - {row.event_id for row in tables.outbox}:
        verdict.violate(Invariant.ONE_RECORD_PER_RETURNED_EVENT, f"{event_id} is no event")


def _check_rest(verdict: Verdict, tables: Tables, depths: Sequence[Depth], *, parks: bool) -> None:
    for depth in depths:
        if depth.held_seconds > HELD_SECONDS:
            verdict.violate(Invariant.NOTHING_HELD, str(depth))
        if depth.ready or depth.unacknowledged:
            verdict.violate(Invariant.NOTHING_WAITS, str(depth))
    for row in tables.outbox:
        if row.parked and not parks:
            verdict.violate(Invariant.NOTHING_PARKED, f"{row.type} {row.event_id}")
        elif not row.published and not row.parked:
            verdict.violate(Invariant.NOTHING_WAITS, f"{row.type} {row.event_id} is pending")


def _sum_up(verdict: Verdict, facts: Facts) -> None:
    sums, history = verdict.sums, facts.history
    attempted = {value_of(each) for each in history.attempts}
    acknowledged = {
        value_of(each) for each in history.attempts if each.attempt_id in history.confirmed
    }
    ok = {
        value_of(attempts[0])
        for name, attempts in facts.attempts_of.items()
        if facts.is_order(attempts[0]) or name in facts.dead_letters_of
    }
    sums.attempts, sums.acknowledged = len(attempted), len(acknowledged)
    sums.ok, sums.recovered = len(ok), len(ok - acknowledged)
    sums.publishings = len(history.attempts)
    sums.orders, sums.dead_letters = len(facts.tables.orders), len(facts.tables.dead_letters)
    sums.lost = _count(verdict, Invariant.NOTHING_LOST)
    sums.unexpected = _count(verdict, Invariant.NOTHING_UNEXPECTED) + _count(
        verdict, Invariant.NO_EVENT_WITHOUT_CAUSE
    )


def _count(verdict: Verdict, invariant: Invariant) -> int:
    violation = verdict.violations.get(invariant)
    return violation.count if violation else 0
