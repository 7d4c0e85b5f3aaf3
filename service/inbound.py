"""What came in: a valid order, or a delivery that cannot become one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from order_contracts import OrderCreated
from service.domain.errors import Refusal
from service.domain.fingerprint import fingerprint
from service.rabbitmq.delivery import Delivery


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
