"""What is to become of an order: a decision, made of values alone."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from db.records import TakenOrder
from service.codec import fingerprint
from service.contracts import FailureReason, OrderCreated
from service.delivery import Delivery
from service.errors import Refusal


@dataclass(frozen=True, slots=True)
class Candidate:
    """A valid order that asks to be processed, with the fingerprint of its content."""

    order: OrderCreated
    fingerprint: bytes
    delivery: Delivery

    @classmethod
    def of(cls, order: OrderCreated, delivery: Delivery) -> Candidate:
        return cls(order, fingerprint(order), delivery)


@dataclass(frozen=True, slots=True)
class Refused:
    """A delivery that cannot become an order; `order_id` where one can be read in it.

    `own_event`: the id of the event of an order service that it is. It is recorded once, and
    nothing is published of it. `shortened`: the database takes its body or its headers neither.
    """

    refusal: Refusal
    delivery: Delivery
    order_id: str | None = None
    own_event: str | None = None
    shortened: bool = False

    @property
    def keeps_body(self) -> bool:
        """Whether its record has the body."""
        return self.delivery.storable and not self.shortened

    def digest(self) -> bytes:
        """What equal messages have in common: 32 bytes. An event is the same however it came."""
        if self.own_event is None:
            return self.delivery.digest()
        return hashlib.sha256(f"event {self.own_event} ".encode() + self.delivery.body).digest()


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

    def add(self, candidate: Candidate) -> None:
        order = candidate.order
        taken = TakenOrder(order.order_id, order.idempotency_key, candidate.fingerprint)
        self._by_key[order.idempotency_key] = taken
        self._order_ids.add(order.order_id)

    def decide(self, candidate: Candidate) -> Decision:
        return decide(
            candidate,
            same_key=self._by_key.get(candidate.order.idempotency_key),
            order_id_taken=candidate.order.order_id in self._order_ids,
        )


def decide(candidate: Candidate, *, same_key: TakenOrder | None, order_id_taken: bool) -> Decision:
    """Whether the candidate is new, a repetition, or in conflict with what is stored.

    The key is asked first: an order sent again has both its key and its id taken, by itself.
    """
    if same_key is not None:
        if same_key.fingerprint == candidate.fingerprint:
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
