"""The checker's part about events: what an independent subscriber received, against the tables."""

from __future__ import annotations

from collections import Counter, defaultdict

from tests.faults.contract import (
    CONFLICTS,
    DEAD_LETTER,
    FAILED,
    LARGEST_STORED,
    PROCESSED,
    content_of,
    digest,
    faults_of_form,
    kind_of,
    payload_of,
)
from tests.faults.facts import Facts
from tests.faults.journal import Observed
from tests.faults.tables import DeadLetterRow
from tests.faults.verdict import MOST_PUBLICATIONS, Invariant, Verdict, surplus

UNKNOWN_ORDER = "UNKNOWN"


def check_events(verdict: Verdict, facts: Facts, *, parks: bool) -> None:
    events = _first_observations(verdict, facts)
    _check_against_outbox(verdict, facts, events)
    for event in events.values():
        for fault in faults_of_form(event):
            verdict.violate(Invariant.EVENT_IS_WELL_FORMED, f"{_told(event)}: {fault}")
    of_kind = defaultdict[str, list[Observed]](list)
    for event in events.values():
        of_kind[kind_of(event)].append(event)
    set_aside = Counter(row.type for row in facts.tables.outbox if row.parked and parks)
    _check_processed(verdict, facts, of_kind[PROCESSED], set_aside[PROCESSED])
    _check_failed(verdict, facts, of_kind[FAILED], set_aside[FAILED])
    _check_copies(verdict, facts, of_kind[DEAD_LETTER], set_aside[DEAD_LETTER])
    _check_sequence(verdict, events)


def _first_observations(verdict: Verdict, facts: Facts) -> dict[str, Observed]:
    """Each event as it was observed first, in that order; a repetition must be the same."""
    first: dict[str, Observed] = {}
    published = Counter(event.event_id for event in facts.history.observed if not event.redelivered)
    for event_id, times in surplus(published, MOST_PUBLICATIONS).items():
        if event_id is not None:
            verdict.violate(Invariant.REPEATS_ARE_BOUNDED, f"event {event_id}: {times} times")
    for event in facts.history.observed:
        if event.event_id is None:
            verdict.violate(Invariant.EVENT_IS_WELL_FORMED, f"{_told(event)}: no message id")
            continue
        known = first.get(event.event_id)
        if known is None:
            first[event.event_id] = event
            continue
        # What comes again to the observer alone was not published again.
        verdict.sums.duplicated += not event.redelivered
        if _substance(known) != _substance(event):
            verdict.violate(Invariant.SAME_EVENT_SAME_PAYLOAD, f"{_told(known)}, then others")
    return first


def _substance(event: Observed) -> tuple[object, ...]:
    headers = {name: value for name, value in event.headers.items() if not _of_broker(name)}
    return event.payload, event.type, event.routing_key, event.correlation_id, headers


def _of_broker(header: str) -> bool:
    return header in {"x-delivery-count", "x-acquired-count"}


def _check_against_outbox(verdict: Verdict, facts: Facts, events: dict[str, Observed]) -> None:
    outbox = {row.event_id: row for row in facts.tables.outbox}
    recorded = {row.dead_letter_id for row in facts.tables.dead_letters}
    for event_id, event in events.items():
        row = outbox.get(event_id)
        if row is None:
            passed_on = kind_of(event) == DEAD_LETTER and len(event.payload) > LARGEST_STORED
            if not (passed_on and event_id in recorded):
                verdict.violate(
                    Invariant.NO_EVENT_WITHOUT_CAUSE, f"{_told(event)} is not in the outbox"
                )
        elif (row.type, row.payload_digest) != (event.type, digest(event.payload)):
            verdict.violate(
                Invariant.SAME_EVENT_SAME_PAYLOAD, f"{_told(event)} is another in the outbox"
            )
    for row in facts.tables.outbox:
        if row.published and row.event_id not in events:
            verdict.violate(Invariant.EVERY_EVENT_OBSERVED, f"{row.type} {row.event_id}")


def _check_processed(
    verdict: Verdict, facts: Facts, events: list[Observed], set_aside: int
) -> None:
    traces = _traces_of_orders(facts)
    told = Counter[str]()
    for event in events:
        said = payload_of(event)
        order_id = str(said.get("orderId"))
        told[order_id] += 1
        key = facts.key_of_id.get(order_id)
        if key is None:
            verdict.violate(
                Invariant.NO_EVENT_WITHOUT_CAUSE, f"{_told(event)}: no order {order_id}"
            )
            continue
        if said.get("idempotencyKey") != key:
            verdict.violate(Invariant.ONE_EVENT_PER_ORDER, f"{_told(event)}: not the key {key}")
        if traces[key] and event.correlation_id not in traces[key]:
            verdict.violate(
                Invariant.EVENT_IS_WELL_FORMED,
                f"{_told(event)}: correlation id {event.correlation_id} is of no such message",
            )
    wrong = {order_id: told[order_id] for order_id in facts.key_of_id if told[order_id] != 1}
    missing = [order_id for order_id, count in wrong.items() if not count]
    for order_id, count in wrong.items():
        if count or len(missing) > set_aside:
            verdict.violate(Invariant.ONE_EVENT_PER_ORDER, f"order {order_id}: {count} events")


def _traces_of_orders(facts: Facts) -> dict[str, set[str]]:
    """By key, the traces that the event of the stored order may carry."""
    found = defaultdict[str, set[str]](set)
    for attempt in facts.history.attempts:
        if attempt.trace and facts.is_order(attempt):
            found[content_of(attempt.body).key].add(attempt.trace)
    return found


def _check_failed(verdict: Verdict, facts: Facts, events: list[Observed], set_aside: int) -> None:
    """As many as there are dead letters, by message and reason.

    Those of messages that carry no trace are told by their reason alone.
    """
    expected = Counter(
        (row.trace if row.trace in facts.attempts_of else None, row.reason)
        for row in facts.tables.dead_letters
    )
    found = Counter[tuple[str | None, str]]()
    for event in events:
        said = payload_of(event)
        known = event.correlation_id in facts.attempts_of
        found[event.correlation_id if known else None, str(said.get("reason"))] += 1
        if known and said.get("orderId") not in _order_ids(facts, event, said):
            verdict.violate(
                Invariant.EVENT_IS_WELL_FORMED, f"{_told(event)}: order {said.get('orderId')}"
            )
    for each, count in (found - expected).items():
        broken = (
            Invariant.ONE_FAILURE_PER_DEAD_LETTER
            if each in expected
            else Invariant.NO_EVENT_WITHOUT_CAUSE
        )
        verdict.violate(broken, f"message {each[0]}, {each[1]}: {count} OrderFailed too many")
    missing = expected - found
    if missing.total() > set_aside:
        for each, count in missing.items():
            verdict.violate(
                Invariant.ONE_FAILURE_PER_DEAD_LETTER,
                f"message {each[0]}, {each[1]}: {count} OrderFailed too few",
            )


def _order_ids(facts: Facts, event: Observed, said: dict[str, object]) -> set[str | None]:
    """What an OrderFailed may call the order of its message."""
    attempt = facts.attempts_of[str(event.correlation_id)][0]
    in_conflict = said.get("reason") in CONFLICTS
    return {attempt.order_id} if in_conflict else {attempt.order_id, UNKNOWN_ORDER}


def _check_copies(verdict: Verdict, facts: Facts, events: list[Observed], set_aside: int) -> None:
    copies = defaultdict[str, list[Observed]](list)
    for event in events:
        copies[facts.identify(event.correlation_id, digest(event.payload))].append(event)
    missing = sum(
        max(len(rows) - len(copies[name]), 0) for name, rows in facts.dead_letters_of.items()
    )
    for name, rows in facts.dead_letters_of.items():
        count = len(copies[name])
        if count > len(rows) or (count < len(rows) and missing > set_aside):
            verdict.violate(
                Invariant.ONE_COPY_PER_DEAD_LETTER,
                f"message {name}: {len(rows)} dead letters, {count} copies",
            )
        _check_copies_of(verdict, facts, name, rows, copies[name])
    for name in copies.keys() - facts.dead_letters_of.keys():
        verdict.violate(
            Invariant.NO_EVENT_WITHOUT_CAUSE, f"{_told(copies[name][0])}: no dead letter"
        )


def _check_copies_of(
    verdict: Verdict, facts: Facts, name: str, rows: list[DeadLetterRow], copies: list[Observed]
) -> None:
    reasons = {row.reason for row in rows}
    sent = {digest(attempt.body) for attempt in facts.attempts_of.get(name, ())}
    for copy in copies:
        if copy.headers.get("x-failure-reason") not in reasons:
            verdict.violate(
                Invariant.DEAD_LETTER_HAS_ITS_REASON,
                f"{_told(copy)}: {copy.headers.get('x-failure-reason')}, not {reasons}",
            )
        if sent and digest(copy.payload) not in sent:
            verdict.violate(
                Invariant.DEAD_LETTER_KEEPS_THE_BYTES, f"{_told(copy)}: not the bytes of {name}"
            )


def _check_sequence(verdict: Verdict, events: dict[str, Observed]) -> None:
    """`events` in the order of their first observation."""
    early: dict[str, Observed] = {}
    for event in events.values():
        said = payload_of(event) if kind_of(event) in {PROCESSED, FAILED} else {}
        order_id = str(said.get("orderId"))
        if said.get("reason") in CONFLICTS:
            early.setdefault(order_id, event)
        elif kind_of(event) == PROCESSED and order_id in early:
            verdict.violate(
                Invariant.EVENTS_IN_ORDER,
                f"{_told(early[order_id])} before {_told(event)} of order {order_id}",
            )


def _told(event: Observed) -> str:
    return f"{kind_of(event)} {event.event_id}"
