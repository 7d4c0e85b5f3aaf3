"""What is to become of an order: a decision, made of values alone."""

from __future__ import annotations

from dataclasses import dataclass

from db.records import TakenOrder
from order_contracts import FailureReason, OrderCreated
from service.domain.errors import Refusal


@dataclass(frozen=True, slots=True)
class Accepted:
    """New: to be stored, and its OrderProcessed published."""


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Stored before with the same content: nothing is to be done."""


@dataclass(frozen=True, slots=True)
class Conflict:
    """Its key or its id belongs to another order."""

    refusal: Refusal


Decision = Accepted | Duplicate | Conflict


class TakenOrders:
    """The orders that are stored or about to be, found by key and by id."""

    def __init__(self, taken: list[TakenOrder]) -> None:
        self._by_key = {order.idempotency_key: order for order in taken}
        self._order_ids = {order.order_id for order in taken}

    def add(self, order: OrderCreated, fingerprint: bytes) -> None:
        """Count in an order that the same transaction is about to store."""
        taken = TakenOrder(order.order_id, order.idempotency_key, fingerprint)
        self._by_key[order.idempotency_key] = taken
        self._order_ids.add(order.order_id)

    def decide(self, order: OrderCreated, fingerprint: bytes) -> Decision:
        return decide(
            fingerprint,
            same_key=self._by_key.get(order.idempotency_key),
            order_id_taken=order.order_id in self._order_ids,
        )


def decide(fingerprint: bytes, *, same_key: TakenOrder | None, order_id_taken: bool) -> Decision:
    """Whether an order is new, a repetition, or in conflict with what is stored.

    The key is asked first: an order sent again has both its key and its id taken, by itself.
    """
    if same_key is not None:
        if same_key.fingerprint == fingerprint:
            return Duplicate()
        return Conflict(
            Refusal(
                FailureReason.IDEMPOTENCY_CONFLICT,
                "idempotencyKey: was used before with other content",
            )
        )
    if order_id_taken:
        return Conflict(
            Refusal(
                FailureReason.ORDER_ID_CONFLICT,
                "orderId: was used before under another idempotencyKey",
            )
        )
    return Accepted()
