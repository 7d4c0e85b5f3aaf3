"""How a version 2 of OrderCreated comes in (docs/consumers.md), tried on a branch of the models.

The service knows version 1 alone. Here a version 2 is put beside it, by the service's own rule of
types, fingerprint and decision.
"""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field, ValidationError

from db.records import TakenOrder
from order_contracts import OrderCreated
from service.domain.decision import Accepted, Duplicate, decide
from service.domain.fingerprint import fingerprint
from service.domain.message_type import is_order_created, other_type
from tests.factories import order_created, order_created_fields

ONE, TWO = "OrderCreated", "com.example.OrderCreated.v2"


class OrderCreatedV2(OrderCreated):
    """It breaks producers: a field more that is required."""

    currency: str = Field(pattern="^[A-Z]{3}$")


def is_version_two(name: str) -> bool:
    return name.endswith(".v2") and is_order_created(name.removesuffix(".v2"))


def reader_of(name: str | None, *, one: bool, two: bool) -> type[OrderCreated] | None:
    """The model that reads a message of this type, by the versions that are taken."""
    if two and name is not None and is_version_two(name):
        return OrderCreatedV2
    return OrderCreated if one and other_type(name, {}) is None else None


@pytest.mark.parametrize(
    ("taken", "readers"),
    [
        # As it is: version 2 is a dead letter, and so is nobody's order by chance.
        ({"one": True, "two": False}, {None: OrderCreated, ONE: OrderCreated, TWO: None}),
        # The overlap: each by its type, and no type is version 1.
        ({"one": True, "two": True}, {None: OrderCreated, ONE: OrderCreated, TWO: OrderCreatedV2}),
        # The end of version 1.
        ({"one": False, "two": True}, {None: None, ONE: None, TWO: OrderCreatedV2}),
    ],
)
def test_versions_come_and_go_by_their_types(
    taken: dict[str, bool], readers: dict[str | None, type[OrderCreated] | None]
) -> None:
    assert {name: reader_of(name, **taken) for name in readers} == readers


def test_version_two_is_no_version_one_with_a_field_more() -> None:
    with pytest.raises(ValidationError, match="currency"):
        OrderCreatedV2.model_validate(order_created_fields())


def test_an_order_sent_as_both_versions_counts_once() -> None:
    fields: dict[str, Any] = order_created_fields(currency="EUR")
    two = OrderCreatedV2.model_validate(fields)
    assert two.currency == "EUR"
    assert decide(fingerprint(two), same_key=None, order_id_taken=False) == Accepted()
    stored = TakenOrder(two.order_id, two.idempotency_key, fingerprint(order_created()))
    assert decide(fingerprint(two), same_key=stored, order_id_taken=True) == Duplicate()
