"""A validation error as a refusal: the field and the rule, never the value."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from service.codec import decode
from service.contracts import FailureReason, OrderCreated
from service.errors import Refusal
from service.subscribers import MAX_NAMED_FAULTS, readable_order_id, refusal_of
from tests.factories import order_created_fields

CANARY = "c4nary-7f3a"


def refusal_for(body: Any) -> Refusal:
    """As FastStream validates it: the order is an argument of that name."""
    try:
        TypeAdapter(dict[str, OrderCreated]).validate_python({"order": body})
    except ValidationError as error:
        return refusal_of(error)
    raise AssertionError("the order is valid")


def item(**fields: Any) -> dict[str, Any]:
    return {"sku": "85123A", "quantity": 6, "unitPrice": "2.55"} | fields


@pytest.mark.parametrize(
    ("fields", "details"),
    [
        ({"orderId": "a b"}, "orderId: String should match pattern '^[!-~]{1,255}$'"),
        ({"userId": None}, "userId: Input should be a valid string"),
        ({"totalAmount": 0}, "totalAmount: Input should be greater than 0"),
        (
            {"totalAmount": 100_000_000},
            "totalAmount: Input should be less than or equal to 99999999.99",
        ),
        ({"totalAmount": "0.001"}, "totalAmount: Input should have at most 2 decimals"),
        ({"totalAmount": True}, "totalAmount: Input should be a number or a decimal string"),
        ({"items": None}, "items: Input should be an array"),
        (
            {"items": [item(), item(quantity=0)]},
            "items[1].quantity: Input should be greater than or equal to 1",
        ),
        (
            {"items": [{}]},
            "items[0].sku: Field required; items[0].quantity: Field required; "
            "items[0].unitPrice: Field required",
        ),
    ],
)
def test_details_name_the_field_and_the_rule(fields: dict[str, Any], details: str) -> None:
    refusal = refusal_for(order_created_fields(**fields))
    assert refusal.reason is FailureReason.INVALID_PAYLOAD
    assert refusal.details == details


@pytest.mark.parametrize("body", [None, [], "text", 1, True])
def test_a_body_that_is_no_object_is_named_as_such(body: Any) -> None:
    assert refusal_for(body).details.startswith("body: ")


def test_of_many_faults_the_first_are_named_and_the_rest_are_counted() -> None:
    refusal = refusal_for(order_created_fields(items=[item(quantity=0)] * 1000))
    assert refusal.details.count("quantity") == MAX_NAMED_FAULTS
    assert refusal.details.endswith("; and 995 more")
    assert len(refusal.details) < 1000


def _poisoned() -> list[Any]:
    """A canary in the place of every value and name there is, each in every wrong shape."""
    shapes: list[Any] = [
        f"{CANARY} ",
        f"{CANARY}\n",
        CANARY * 50,
        [CANARY],
        {CANARY: CANARY},
        {"$int": CANARY},
    ]
    fields = order_created_fields()
    bodies = [fields | {name: shape, CANARY: CANARY} for name in fields for shape in shapes]
    bodies += [
        fields | {"items": [item(**{name: shape, CANARY: CANARY})]}
        for name in item()
        for shape in shapes
        if not (name == "sku" and isinstance(shape, str))
    ]
    return [*bodies, *({CANARY: shape} for shape in shapes), *shapes, {}]


@pytest.mark.parametrize("body", _poisoned())
def test_no_value_and_no_unknown_name_is_in_the_details_or_in_a_log(
    body: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        refusal = refusal_for(decode(json.dumps(body).encode()))
    assert CANARY not in f"{refusal} {refusal!r} {refusal.details}"
    assert CANARY not in caplog.text
    assert CANARY not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("body", "order_id"),
    [
        ({"orderId": "order-7"}, "order-7"),
        ({"orderId": "order-7", "totalAmount": "wrong"}, "order-7"),
        ({"orderId": "a" * 255}, "a" * 255),
        ({"orderId": "a" * 256}, None),
        ({"orderId": "a b"}, None),
        ({"orderId": "a\n"}, None),
        ({"orderId": ""}, None),
        ({"orderId": 7}, None),
        ({"orderId": ["order-7"]}, None),
        ({"order_id": "order-7"}, None),
        ([{"orderId": "order-7"}], None),
        ("order-7", None),
        (None, None),
    ],
)
def test_an_order_id_is_named_where_it_is_valid_by_itself(body: Any, order_id: str | None) -> None:
    assert readable_order_id(json.dumps(body).encode()) == order_id
