"""Makes the messages of one class: each with ids of its own, each with the canary in it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from tests.faults.corpus import amqp
from tests.faults.corpus.case import (
    CANARY,
    INVALID_JSON,
    INVALID_PAYLOAD,
    UNKNOWN,
    Case,
    Dead,
    Expected,
    Line,
    Repeated,
    Stored,
)

Fields = dict[str, Any]
Properties = Mapping[str, bytes | None]


class Verbatim(str):
    """JSON text that stands in the message as it is."""

    __slots__ = ()


class Pairs(list[tuple[Any, Any]]):
    """An object whose names may come twice."""

    __slots__ = ()


def text_of(value: Any) -> str:
    """JSON, without a blank."""
    match value:
        case Verbatim():
            return str(value)
        case Pairs():
            return "{" + ",".join(f"{text_of(name)}:{text_of(each)}" for name, each in value) + "}"
        case dict():
            return text_of(Pairs(value.items()))
        case list() | tuple():
            return "[" + ",".join(map(text_of, value)) + "]"
        case _:
            return json.dumps(value, ensure_ascii=False)


def body_of(fields: Any) -> bytes:
    return text_of(fields).encode()


def line(**changes: Any) -> Fields:
    return {"sku": CANARY, "quantity": 2, "unitPrice": "6.17"} | changes


class Series:
    """The messages of one class, numbered."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._slug = kind.replace(" ", "-")
        self._orders = 0
        self._cases = 0

    def order(self, **changes: Any) -> Fields:
        """The fields of a valid order that nobody else has; a change wins or is added."""
        self._orders += 1
        own = f"{CANARY}-{self._slug}-{self._orders}"
        return {
            "orderId": own,
            "userId": f"u-{CANARY}",
            "totalAmount": Verbatim("12.34"),
            "idempotencyKey": f"k-{own}",
            "items": [line()],
        } | changes

    def stored(self, what: str, fields: Fields, body: bytes | None = None, **how: Any) -> Case:
        """An order after all. Where the body says it in other words, `fields` is what it says."""
        return self._case(what, body or body_of(fields), order_of(fields), **how)

    def repeated(self, what: str, fields: Fields, body: bytes | None = None, **how: Any) -> Case:
        return self._case(what, body or body_of(fields), Repeated(), **how)

    def dead(
        self, what: str, body: bytes, reason: str, order_id: str = UNKNOWN, **how: Any
    ) -> Case:
        return self._case(what, body, Dead(reason, order_id), **how)

    def not_json(self, what: str, body: bytes | str, **how: Any) -> Case:
        raw = body.encode() if isinstance(body, str) else body
        return self.dead(what, raw, INVALID_JSON, **how)

    def no_order(self, what: str, fields: Any, order_id: str | None = None, **how: Any) -> Case:
        """Strict JSON that breaks a rule; its order id is told unless another one is given."""
        if order_id is None:
            order_id = fields["orderId"]
        return self.dead(what, body_of(fields), INVALID_PAYLOAD, order_id, **how)

    def _case(
        self,
        what: str,
        body: bytes,
        expected: Expected,
        *,
        properties: Properties | None = None,
        correlation: str | None = "",
        headers_kept: bool = True,
        may_be_refused: bool = False,
    ) -> Case:
        self._cases += 1
        own = f"c-{CANARY}-{self._slug}-{self._cases}"
        usual: dict[str, bytes | None] = {
            "content_type": amqp.short("application/json"),
            "headers": amqp.table(amqp.text("x-tenant", CANARY)),
            "delivery_mode": amqp.octet(2),
            "correlation_id": amqp.short(own),
        }
        found = usual | dict(properties or {})
        return Case(
            kind=self.kind,
            what=what,
            body=body,
            expected=expected,
            properties={name: value for name, value in found.items() if value is not None},
            correlation=own if correlation == "" else correlation,
            headers_kept=headers_kept,
            may_be_refused=may_be_refused,
        )


def order_of(fields: Fields) -> Stored:
    """What these fields say. A number's text is read exactly."""
    return Stored(
        order_id=fields["orderId"],
        user_id=fields["userId"],
        total_amount=Decimal(fields["totalAmount"]),
        idempotency_key=fields["idempotencyKey"],
        items=tuple(
            Line(each["sku"], int(Decimal(each["quantity"])), Decimal(each["unitPrice"]))
            for each in fields["items"]
        ),
    )


Class = Callable[[Series], Iterator[Case]]
CLASSES: dict[str, Class] = {}


def named(kind: str) -> Callable[[Class], Class]:
    """Put a class of messages into the corpus, under its name."""

    def register(messages: Class) -> Class:
        assert kind not in CLASSES
        CLASSES[kind] = messages
        return messages

    return register
