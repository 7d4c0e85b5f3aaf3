"""Every field of an order is stored and compared: a new one that is not fails here."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from order_contracts import OrderCreated, OrderItem
from service.domain.fingerprint import fingerprint
from service.inbound import Candidate
from service.outbox.envelope import order_row
from tests.factories import delivery, order_created

NOW = datetime(2026, 1, 31, tzinfo=UTC)
# Another value for each field, all else unchanged. A field of the contract that is missing here has
# yet to be mapped: docs/how-to.md says where.
OTHER_ORDER: dict[str, Any] = {
    "order_id": "another",
    "user_id": "another",
    "total_amount": Decimal("1.01"),
    "idempotency_key": "another",
    "items": (),
}
OTHER_ITEM: dict[str, Any] = {"sku": "another", "quantity": 7, "unit_price": Decimal("1.01")}
# The key under which the fingerprint is looked up is no part of what is compared.
NOT_COMPARED = {"idempotency_key"}


def stored(order: OrderCreated) -> dict[str, Any]:
    """The row, without the fingerprint, which would hide a field that is not mapped."""
    row = order_row(Candidate.of(order, delivery(b"{}")), NOW)
    return {name: value for name, value in row.items() if name != "fingerprint"}


def changed(item: dict[str, Any]) -> OrderCreated:
    order = order_created()
    (first,) = order.items
    return order.model_copy(update={"items": (first.model_copy(update=item),)})


@pytest.mark.parametrize("name", OrderCreated.model_fields)
def test_a_field_of_an_order_is_stored_and_compared(name: str) -> None:
    assert name in OTHER_ORDER, "a new field: give it another value, and map it"
    order = order_created()
    other = order.model_copy(update={name: OTHER_ORDER[name]})

    assert stored(other) != stored(order)
    assert (fingerprint(other) != fingerprint(order)) is (name not in NOT_COMPARED)


@pytest.mark.parametrize("name", OrderItem.model_fields)
def test_a_field_of_an_item_is_stored_and_compared(name: str) -> None:
    assert name in OTHER_ITEM, "a new field: give it another value, and map it"
    other = changed({name: OTHER_ITEM[name]})

    assert stored(other) != stored(order_created())
    assert fingerprint(other) != fingerprint(order_created())
