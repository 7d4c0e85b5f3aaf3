"""A validation error as a refusal: the field and the rule, never the value."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import sys
from typing import Any

import pytest
from faststream.rabbit import RabbitBroker, TestRabbitBroker
from pydantic import TypeAdapter, ValidationError

from order_contracts import MAX_ITEMS, FailureReason, OrderCreated
from service.consumer.acknowledgements import AtHand
from service.consumer.codec import decode
from service.consumer.subscriber import MAX_NAMED_FAULTS, make_router, readable_order_id, refusal_of
from service.consumer.unit_of_work import Outcome, Repeated
from service.domain.errors import Refusal
from service.inbound import Candidate, Refused
from service.rabbitmq.topology import Topology
from tests.factories import order_created, order_created_fields
from tests.harness import settings_for

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
    refusal = refusal_for({"items": [{}]})
    assert refusal.details.count("Field required") == MAX_NAMED_FAULTS
    assert refusal.details.endswith("; and 2 more")
    assert len(refusal.details) < 1000


def test_of_the_items_the_first_faulty_one_is_named_and_the_rest_are_not_read() -> None:
    items = [item(), item(quantity=0), item(sku=None), *[{}] * 1000]
    refusal = refusal_for(order_created_fields(items=items))
    assert refusal.details == "items[1].quantity: Input should be greater than or equal to 1"


def test_of_too_many_items_none_is_validated() -> None:
    items = [item()] * MAX_ITEMS
    assert len(order_created(items=items).items) == MAX_ITEMS
    refusal = refusal_for(order_created_fields(items=[{}, *items]))
    assert refusal.details == "items: Array should have at most 5000 items"


def errors_alive() -> list[BaseException]:
    """Of those that a message can cause, and that the collector looks at."""
    kinds = (ValidationError, Refusal, json.JSONDecodeError, UnicodeError, RecursionError)
    alive = [each for each in gc.get_objects() if isinstance(each, kinds)]
    return [each for each in alive if each.__traceback__ or each.__context__]


@pytest.mark.parametrize(
    "body",
    [
        json.dumps(order_created_fields(items=[{}] * 10)).encode(),
        b"[" * 10,
        b'"\xff"',
        b'{"a":1,"a":1}',
        b"[" * 10_000,
        b'"' + b"a" * 300_000 + b'"',
    ],
)
async def test_while_a_refused_message_is_stored_nothing_of_its_error_is_alive(body: bytes) -> None:
    alive: list[BaseException] = []

    async def store(subject: Candidate | Refused) -> Outcome:
        await asyncio.sleep(0)
        assert isinstance(subject, Refused)
        assert sys.exc_info() == (None, None, None)
        alive.extend(errors_alive())
        return Repeated("", subject.delivery.received_at)

    broker = RabbitBroker()
    topology = Topology.of(settings_for())
    broker.include_router(make_router(topology, store, AtHand(), prefetch_count=1))
    async with TestRabbitBroker(broker):
        await broker.publish(body, topology.incoming.name)  # what is made once is made by now
        alive.clear()
        gc.collect()
        gc.freeze()  # what is there by now is not looked at
        gc.disable()
        try:
            await broker.publish(body, topology.incoming.name)
        finally:
            gc.enable()
            gc.unfreeze()
    assert alive == []


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
    assert readable_order_id(body) == order_id
