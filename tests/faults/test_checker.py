"""The judge is judged: a history that holds, and each invariant broken by hand and found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

import pytest

from tests.faults.checker import Depth, History, check
from tests.faults.contract import LARGEST_STORED, digest
from tests.faults.journal import Attempt, Observed
from tests.faults.tables import DeadLetterRow, OrderRow, OutboxRow, Tables
from tests.faults.verdict import MOST_EXAMPLES, Invariant, Verdict

LINE = {"sku": "tea", "quantity": 2, "unitPrice": "2.50"}


@dataclass
class World:
    """What was sent, what is stored and what was observed; `event` appends to the last two."""

    attempts: list[Attempt] = field(default_factory=list)
    confirmed: set[str] = field(default_factory=set)
    observed: list[Observed] = field(default_factory=list)
    orders: list[OrderRow] = field(default_factory=list)
    outbox: list[OutboxRow] = field(default_factory=list)
    dead_letters: list[DeadLetterRow] = field(default_factory=list)
    returned: list[str] = field(default_factory=list)
    depths: list[Depth] = field(default_factory=lambda: [Depth("order_created_queue", 0, 0)])

    def judge(self, *, parks: bool = False) -> Verdict:
        history = History(self.attempts, frozenset(self.confirmed), self.observed)
        tables = Tables(self.orders, self.outbox, self.dead_letters, self.returned)
        return check(history, tables, self.depths, parks=parks)

    # What was sent.

    def send(self, trace: str, body: bytes, reason: str | None = None) -> Attempt:
        said = json.loads(body) if reason is None else {}
        attempt = Attempt(
            trace,
            "by hand",
            body,
            reason=reason,
            trace=trace,
            order_id=said.get("orderId"),
            key=said.get("idempotencyKey"),
        )
        self.attempts.append(attempt)
        self.confirmed.add(trace)
        return attempt

    # What became of it.

    def process(self, attempt: Attempt) -> None:
        said = json.loads(attempt.body, parse_float=Decimal)
        self.orders.append(
            OrderRow(
                said["orderId"],
                said["userId"],
                Decimal(said["totalAmount"]),
                "PROCESSED",
                said["idempotencyKey"],
                said["items"],
            )
        )
        payload = {
            "orderId": said["orderId"],
            "idempotencyKey": said["idempotencyKey"],
            "status": "PROCESSED",
            "processingTimestamp": "2026-01-31T12:00:00.000000Z",
        }
        self.event(f"event-{attempt.trace}", "OrderProcessed", "order.processed", payload, attempt)

    def refuse(self, attempt: Attempt, reason: str, name: str = "") -> None:
        letter = f"letter-{name or attempt.trace}"
        body = b"" if len(attempt.body) > LARGEST_STORED else attempt.body
        self.dead_letters.append(
            DeadLetterRow(letter, reason, digest(body), len(body), attempt.trace)
        )
        payload = {"orderId": attempt.order_id or "UNKNOWN", "reason": reason, "errorDetails": "?"}
        self.event(f"failed-{letter}", "OrderFailed", "order.failed", payload, attempt)
        self.event(letter, "DeadLetter", "order.dead_letter", attempt.body, attempt, reason=reason)

    def event(
        self,
        event_id: str,
        kind: str,
        routing_key: str,
        payload: dict[str, Any] | bytes,
        attempt: Attempt,
        reason: str = "",
    ) -> None:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        headers = {
            "cloudEvents_specversion": "1.0",
            "cloudEvents_id": event_id,
            "cloudEvents_type": kind,
        }
        if reason:
            headers = {"x-failure-reason": reason, "x-failure-details": "?"}
            headers |= {"x-original-queue": "q", "x-received-at": "2026-01-31T12:00:00+00:00"}
        if len(body) <= LARGEST_STORED:
            self.outbox.append(
                OutboxRow(event_id, kind, digest(body), len(body), published=True, parked=False)
            )
        self.observed.append(
            Observed(
                event_id,
                kind,
                routing_key,
                body,
                headers,
                correlation_id=attempt.trace or event_id,
                content_type="application/json",
            )
        )


def order_body(order_id: str, key: str, amount: str = "99.90", **more: Any) -> bytes:
    said = {"orderId": order_id, "userId": "u", "totalAmount": amount, "idempotencyKey": key}
    return json.dumps(said | {"items": [LINE]} | more).encode()


@pytest.fixture
def world() -> World:
    """Two orders, a repetition of the first, both conflicts with it, and poison of two sizes."""
    world = World()
    first = world.send("a", order_body("order-1", "key-1"))
    world.process(first)
    world.process(world.send("b", order_body("order-2", "key-2")))
    world.send("c", order_body("order-1", "key-1", "99.9", unknown=True))
    conflict = world.send("d", order_body("order-1", "key-1", "5"))
    world.refuse(conflict, "IDEMPOTENCY_CONFLICT")
    world.refuse(world.send("e", order_body("order-1", "key-3")), "ORDER_ID_CONFLICT")
    world.refuse(world.send("f", b"{", "INVALID_JSON"), "INVALID_JSON")
    world.refuse(
        world.send("g", b"x" * (LARGEST_STORED + 1), "PAYLOAD_TOO_LARGE"), "PAYLOAD_TOO_LARGE"
    )
    return world


def test_a_history_that_keeps_the_promise_holds_and_is_summed_up(world: World) -> None:
    verdict = world.judge()
    assert verdict.holds, str(verdict)
    sums = verdict.sums
    assert (sums.attempts, sums.acknowledged, sums.ok) == (7, 7, 7)
    assert (sums.lost, sums.unexpected, sums.duplicated, sums.recovered) == (0, 0, 0, 0)
    assert (sums.orders, sums.dead_letters, sums.publishings) == (2, 4, 7)


def test_nothing_at_all_holds() -> None:
    assert World().judge().holds


# Allowed


def test_an_attempt_without_a_confirm_may_be_there_and_is_recovered_then(world: World) -> None:
    world.confirmed -= {"b", "f"}
    verdict = world.judge()
    assert verdict.holds, str(verdict)
    assert (verdict.sums.acknowledged, verdict.sums.ok, verdict.sums.recovered) == (5, 7, 2)


def test_an_attempt_without_a_confirm_may_be_gone(world: World) -> None:
    world.send("h", order_body("order-9", "key-9"))
    world.send("i", b"[", "INVALID_JSON")
    world.confirmed -= {"h", "i"}
    verdict = world.judge()
    assert verdict.holds, str(verdict)
    assert (verdict.sums.attempts, verdict.sums.ok, verdict.sums.lost) == (9, 7, 0)


def test_an_order_that_was_published_three_times_is_one_message(world: World) -> None:
    for trace in ("h", "i"):
        world.send(trace, world.attempts[0].body)
    world.confirmed -= {"a", "h"}
    verdict = world.judge()
    assert verdict.holds, str(verdict)
    assert (verdict.sums.attempts, verdict.sums.publishings) == (7, 9)


def test_repetitions_of_events_are_counted_and_no_violation(world: World) -> None:
    world.observed += [world.observed[0], replace(world.observed[1], redelivered=True)]
    verdict = world.judge()
    assert verdict.holds, str(verdict)
    assert verdict.sums.duplicated == 1, "what comes again to the observer alone is not counted"


def test_of_two_contents_under_one_key_either_may_win() -> None:
    for winner, loser in ((0, 1), (1, 0)):
        world = World()
        sent = [world.send("a", order_body("order-1", "key-1"))]
        sent.append(world.send("b", order_body("order-1", "key-1", "5")))
        world.process(sent[winner])
        world.refuse(sent[loser], "IDEMPOTENCY_CONFLICT")
        assert world.judge().holds, str(world.judge())


def test_a_message_without_a_trace_is_told_by_its_body() -> None:
    world = World()
    for name in ("a", "b"):
        sent = world.send(name, b"same", "INVALID_JSON")
        untraced = replace(sent, trace=None)
        world.attempts[-1] = untraced
        world.refuse(untraced, "INVALID_JSON", name)
    assert world.judge().holds, str(world.judge())
    world.dead_letters.pop()
    assert Invariant.NOTHING_LOST in world.judge().names


def test_parked_events_are_no_violation_of_a_fault_that_parks(world: World) -> None:
    world.outbox[0] = replace(world.outbox[0], published=False, parked=True)
    del world.observed[0]
    assert Invariant.NOTHING_PARKED in world.judge().names
    assert world.judge(parks=True).holds, str(world.judge(parks=True))


# Forbidden

Break = Callable[[World], object]


def change(part: str, index: int, **fields: Any) -> Break:
    def broken(world: World) -> None:
        rows = getattr(world, part)
        rows[index] = replace(rows[index], **fields)

    return broken


def remove(part: str, index: int) -> Break:
    return lambda world: getattr(world, part).pop(index)


def swap(first: int, second: int) -> Break:
    def broken(world: World) -> None:
        events = world.observed
        events[first], events[second] = events[second], events[first]

    return broken


def stored_twice(world: World) -> None:
    world.orders.append(replace(world.orders[0], order_id="order-1-again"))


def two_rows_of_one_id(world: World) -> None:
    world.orders.append(replace(world.orders[0], key="key-1-again"))


def an_order_of_nobody(world: World) -> None:
    world.orders.append(replace(world.orders[0], order_id="order-8", key="key-8"))


def a_dead_letter_of_nobody(world: World) -> None:
    world.dead_letters.append(replace(world.dead_letters[2], trace="nobody", body_digest="?"))


def recorded_twice(world: World) -> None:
    world.refuse(world.attempts[5], "INVALID_JSON", "again")


def a_repetition_that_is_refused(world: World) -> None:
    world.refuse(world.attempts[2], "IDEMPOTENCY_CONFLICT")


def an_unstored_order_that_is_refused(world: World) -> None:
    world.refuse(world.send("h", order_body("order-9", "key-9")), "IDEMPOTENCY_CONFLICT")


def told_twice(index: int, **fields: Any) -> Break:
    """The event once more under an id of its own, in the outbox too."""

    def broken(world: World) -> None:
        event = world.observed[index]
        again = f"again-{event.event_id}"
        headers = event.headers | {"cloudEvents_id": again}
        world.observed.append(replace(event, event_id=again, headers=headers, **fields))
        row = next(row for row in world.outbox if row.event_id == event.event_id)
        world.outbox.append(replace(row, event_id=again))

    return broken


def repeated_with(**fields: Any) -> Break:
    return lambda world: world.observed.append(replace(world.observed[0], **fields))


def observed_again(times: int) -> Break:
    return lambda world: world.observed.extend([world.observed[0]] * times)


def came_back(*event_ids: str) -> Break:
    return lambda world: world.returned.extend(event_ids)


def header(index: int, name: str, value: str | None) -> Break:
    def broken(world: World) -> None:
        headers = dict(world.observed[index].headers)
        headers.pop(name)
        if value is not None:
            headers[name] = value
        world.observed[index] = replace(world.observed[index], headers=headers)

    return broken


def said(index: int, **fields: Any) -> Break:
    """Another payload of an event, in the outbox as well."""

    def broken(world: World) -> None:
        event = world.observed[index]
        payload = json.dumps(json.loads(event.payload) | fields).encode()
        world.observed[index] = replace(event, payload=payload)
        place = [row.event_id for row in world.outbox].index(str(event.event_id))
        world.outbox[place] = replace(world.outbox[place], payload_digest=digest(payload))

    return broken


def untraceable_failure(world: World) -> None:
    told_twice(2, correlation_id="nobody")(world)


BROKEN: list[tuple[Invariant, Break]] = [
    (Invariant.NOTHING_LOST, remove("orders", 1)),
    (Invariant.NOTHING_LOST, remove("dead_letters", 0)),
    (Invariant.NOTHING_LOST, remove("dead_letters", 3)),
    (Invariant.NOTHING_UNEXPECTED, an_order_of_nobody),
    (Invariant.NOTHING_UNEXPECTED, a_dead_letter_of_nobody),
    (Invariant.ONE_ORDER_PER_KEY, stored_twice),
    (Invariant.ONE_ORDER_PER_ID, two_rows_of_one_id),
    (Invariant.ORDER_EQUALS_INPUT, change("orders", 0, total_amount=Decimal("99.89"))),
    (Invariant.ORDER_EQUALS_INPUT, change("orders", 0, user_id="U")),
    (Invariant.ORDER_EQUALS_INPUT, change("orders", 0, order_id="Order-1")),
    (Invariant.ORDER_EQUALS_INPUT, change("orders", 0, status="PENDING")),
    (Invariant.ORDER_EQUALS_INPUT, change("orders", 0, items=[])),
    (Invariant.ORDER_EQUALS_INPUT, change("orders", 0, items=[LINE | {"unitPrice": "2.501"}])),
    (Invariant.ONE_DEAD_LETTER_PER_MESSAGE, recorded_twice),
    (Invariant.NO_DEAD_LETTER_FOR_AN_ORDER, a_repetition_that_is_refused),
    (Invariant.DEAD_LETTER_HAS_ITS_REASON, an_unstored_order_that_is_refused),
    (Invariant.DEAD_LETTER_HAS_ITS_REASON, change("dead_letters", 0, reason="ORDER_ID_CONFLICT")),
    (Invariant.DEAD_LETTER_HAS_ITS_REASON, change("dead_letters", 2, reason="INVALID_PAYLOAD")),
    (Invariant.DEAD_LETTER_HAS_ITS_REASON, header(7, "x-failure-reason", "INVALID_PAYLOAD")),
    (Invariant.DEAD_LETTER_KEEPS_THE_BYTES, change("dead_letters", 2, body_digest=digest(b"}"))),
    (Invariant.DEAD_LETTER_KEEPS_THE_BYTES, change("observed", 7, payload=b"}")),
    (Invariant.DEAD_LETTER_KEEPS_THE_BYTES, change("observed", 9, payload=b"x" * 1024)),
    (Invariant.ONE_EVENT_PER_ORDER, remove("observed", 0)),
    (Invariant.ONE_EVENT_PER_ORDER, told_twice(0)),
    (Invariant.ONE_EVENT_PER_ORDER, said(0, idempotencyKey="key-2")),
    (Invariant.ONE_FAILURE_PER_DEAD_LETTER, remove("observed", 2)),
    (Invariant.ONE_FAILURE_PER_DEAD_LETTER, told_twice(2)),
    (Invariant.ONE_COPY_PER_DEAD_LETTER, remove("observed", 3)),
    (Invariant.ONE_COPY_PER_DEAD_LETTER, remove("observed", 9)),
    (Invariant.ONE_COPY_PER_DEAD_LETTER, told_twice(3)),
    (Invariant.NO_EVENT_WITHOUT_CAUSE, remove("outbox", 0)),
    (Invariant.NO_EVENT_WITHOUT_CAUSE, remove("orders", 1)),
    (Invariant.NO_EVENT_WITHOUT_CAUSE, remove("dead_letters", 2)),
    (Invariant.NO_EVENT_WITHOUT_CAUSE, said(2, reason="INVALID_PAYLOAD")),
    (Invariant.NO_EVENT_WITHOUT_CAUSE, untraceable_failure),
    (Invariant.EVERY_EVENT_OBSERVED, remove("observed", 0)),
    (Invariant.SAME_EVENT_SAME_PAYLOAD, repeated_with(payload=b"{}")),
    (Invariant.SAME_EVENT_SAME_PAYLOAD, repeated_with(correlation_id="b")),
    (Invariant.SAME_EVENT_SAME_PAYLOAD, change("outbox", 0, payload_digest=digest(b"{}"))),
    (Invariant.EVENT_IS_WELL_FORMED, change("observed", 0, persistent=False)),
    (Invariant.EVENT_IS_WELL_FORMED, change("observed", 0, event_id=None)),
    (Invariant.EVENT_IS_WELL_FORMED, change("observed", 0, type="OrderFailed")),
    (Invariant.EVENT_IS_WELL_FORMED, change("observed", 0, content_type=None)),
    (Invariant.EVENT_IS_WELL_FORMED, change("observed", 0, correlation_id="b")),
    (Invariant.EVENT_IS_WELL_FORMED, change("observed", 0, correlation_id=None)),
    (Invariant.EVENT_IS_WELL_FORMED, header(0, "cloudEvents_id", "another")),
    (Invariant.EVENT_IS_WELL_FORMED, header(0, "cloudEvents_specversion", None)),
    (Invariant.EVENT_IS_WELL_FORMED, header(7, "x-received-at", None)),
    (Invariant.EVENT_IS_WELL_FORMED, said(0, status="FAILED")),
    (Invariant.EVENT_IS_WELL_FORMED, said(0, processingTimestamp="2026-01-31T12:00:00")),
    (Invariant.EVENT_IS_WELL_FORMED, said(0, more=1)),
    (Invariant.EVENT_IS_WELL_FORMED, said(2, orderId="order-2")),
    (Invariant.EVENTS_IN_ORDER, swap(0, 2)),
    (Invariant.REPEATS_ARE_BOUNDED, observed_again(12)),
    (Invariant.ROWS_ARE_BOUNDED, came_back(*(f"event-{number}" for number in range(99)))),
    (Invariant.ONE_RECORD_PER_RETURNED_EVENT, came_back("event-a", "event-a")),
    (Invariant.ONE_RECORD_PER_RETURNED_EVENT, came_back("event-of-nobody")),
    (Invariant.NOTHING_WAITS, change("depths", 0, ready=1)),
    (Invariant.NOTHING_WAITS, change("depths", 0, unacknowledged=1)),
    (Invariant.NOTHING_HELD, change("depths", 0, unacknowledged=1, held_seconds=41.0)),
    (Invariant.NOTHING_WAITS, change("outbox", 0, published=False)),
    (Invariant.NOTHING_PARKED, change("outbox", 0, published=False, parked=True)),
]


@pytest.mark.parametrize(
    ("invariant", "broken"), BROKEN, ids=[f"{n}-{each[0]}" for n, each in enumerate(BROKEN)]
)
def test_a_broken_invariant_is_named(world: World, invariant: Invariant, broken: Break) -> None:
    broken(world)
    verdict = world.judge()
    assert invariant in verdict.names, str(verdict)
    assert verdict.violations[invariant].examples
    assert not verdict.holds


def test_each_invariant_is_broken_by_some_test() -> None:
    assert {invariant for invariant, _ in BROKEN} == set(Invariant)


def test_a_verdict_counts_all_violations_and_gives_a_few_examples(world: World) -> None:
    for number in range(2 * MOST_EXAMPLES):
        world.send(f"lost-{number}", order_body(f"lost-{number}", f"lost-{number}"))
    verdict = world.judge()
    assert verdict.violations[Invariant.NOTHING_LOST].count == 2 * MOST_EXAMPLES
    assert len(verdict.violations[Invariant.NOTHING_LOST].examples) == MOST_EXAMPLES
    assert verdict.sums.lost == 2 * MOST_EXAMPLES
    assert verdict.sums.ok == 7
    assert "nothing-lost: 10" in str(verdict)
    assert verdict.as_json()["violations"]["nothing-lost"]["count"] == 2 * MOST_EXAMPLES
