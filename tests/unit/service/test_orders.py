"""The decision: new, repeated, or in conflict."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from db.records import TakenOrder
from order_contracts import FailureReason
from service.domain.decision import Accepted, Conflict, Decision, Duplicate, TakenOrders, decide
from service.inbound import Candidate
from tests.factories import delivery, order_created, order_created_json


def candidate(**overrides: Any) -> Candidate:
    return Candidate.of(order_created(**overrides), delivery(order_created_json(**overrides)))


def taken(each: Candidate) -> TakenOrder:
    return TakenOrder(each.order.order_id, each.order.idempotency_key, each.fingerprint)


def decided(orders: TakenOrders, each: Candidate) -> Decision:
    return orders.decide(each.order, each.fingerprint)


def add(orders: TakenOrders, each: Candidate) -> None:
    orders.add(each.order, each.fingerprint)


def reason_of(decision: Decision) -> FailureReason:
    assert isinstance(decision, Conflict)
    return decision.refusal.reason


def test_an_order_with_a_new_key_and_a_new_id_is_accepted() -> None:
    assert decided(TakenOrders([]), candidate()) == Accepted()
    other = candidate(orderId="other", idempotencyKey="other")
    assert decided(TakenOrders([taken(other)]), candidate()) == Accepted()


def test_the_same_key_with_the_same_content_is_a_duplicate() -> None:
    stored = TakenOrders([taken(candidate(totalAmount="99.90"))])
    assert decided(stored, candidate(totalAmount=99.9, unknown=1)) == Duplicate()


def test_the_same_key_with_other_content_is_an_idempotency_conflict() -> None:
    stored = TakenOrders([taken(candidate())])
    changes: list[dict[str, Any]] = [
        {"totalAmount": 1},
        {"userId": "other"},
        {"items": []},
        {"orderId": "other"},
    ]
    for change in changes:
        decision = decided(stored, candidate(**change))
        assert reason_of(decision) is FailureReason.IDEMPOTENCY_CONFLICT


def test_a_new_key_with_a_taken_order_id_is_an_order_id_conflict() -> None:
    stored = TakenOrders([taken(candidate())])
    decision = decided(stored, candidate(idempotencyKey="new"))
    assert reason_of(decision) is FailureReason.ORDER_ID_CONFLICT


def test_where_key_and_id_belong_to_two_other_orders_the_key_is_named() -> None:
    one = candidate(orderId="o-1", idempotencyKey="k-1")
    other = candidate(orderId="o-2", idempotencyKey="k-2")
    decision = decided(
        TakenOrders([taken(one), taken(other)]), candidate(orderId="o-1", idempotencyKey="k-2")
    )
    assert reason_of(decision) is FailureReason.IDEMPOTENCY_CONFLICT


def test_what_was_accepted_counts_at_once() -> None:
    orders = TakenOrders([])
    add(orders, candidate())
    assert decided(orders, candidate()) == Duplicate()
    assert (
        reason_of(decided(orders, candidate(totalAmount=1))) is FailureReason.IDEMPOTENCY_CONFLICT
    )
    assert (
        reason_of(decided(orders, candidate(idempotencyKey="k"))) is FailureReason.ORDER_ID_CONFLICT
    )


def test_ids_and_keys_compare_byte_for_byte() -> None:
    orders = TakenOrders([taken(candidate(orderId="a", idempotencyKey="k"))])
    assert decided(orders, candidate(orderId="A", idempotencyKey="K")) == Accepted()


def test_a_conflict_names_the_field_and_no_value() -> None:
    stored = TakenOrders([taken(candidate(orderId="c4nary-o", idempotencyKey="c4nary-k"))])
    for conflict, field in (
        (candidate(orderId="x", idempotencyKey="c4nary-k"), "idempotencyKey: "),
        (candidate(orderId="c4nary-o", idempotencyKey="x"), "orderId: "),
    ):
        decision = decided(stored, conflict)
        assert isinstance(decision, Conflict)
        assert decision.refusal.details.startswith(field)
        assert "c4nary" not in str(decision.refusal)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("kl"), st.sampled_from("12"))))
def test_whatever_comes_every_key_and_every_id_is_accepted_at_most_once(
    arrivals: list[tuple[str, str, str]],
) -> None:
    orders, accepted = TakenOrders([]), list[Candidate]()
    for order_id, key, amount in arrivals:
        each = candidate(orderId=order_id, idempotencyKey=key, totalAmount=amount)
        if decided(orders, each) == Accepted():
            add(orders, each)
            accepted.append(each)
        assert decide(each.fingerprint, same_key=None, order_id_taken=False) == Accepted()
    assert len({each.order.order_id for each in accepted}) == len(accepted)
    assert len({each.order.idempotency_key for each in accepted}) == len(accepted)
