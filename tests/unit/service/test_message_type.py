"""The type that a message names, as clients write it: the table of docs/consumers.md."""

from __future__ import annotations

from typing import Any

import pytest

from service.domain.message_type import (
    LONGEST,
    ONE_TYPE,
    SEVERAL_TYPES,
    is_order_created,
    other_type,
)
from tests.processes import ROOT

Named = tuple[str | None, dict[str, Any]]

NAMES = "Shop.OrderCreated, Shop.Messages, Version=1.0.0.0, Culture=neutral, PublicKeyToken=null"


def header(name: str, value: Any) -> Named:
    return None, {name: value}


# Convention: as it names an OrderCreated, and as it names something else.
CONVENTIONS: dict[str, tuple[Named, Named]] = {
    "AMQP": (("OrderCreated", {}), ("OrderCancelled", {})),
    "EasyNetQ": (("Shop.OrderCreated, Shop.Messages", {}), ("Shop.OrderPaid, Shop.Messages", {})),
    "MassTransit": (
        header("MT-MessageType", "urn:message:Shop:OrderCreated;urn:message:Shop:IEvent"),
        header("MT-MessageType", "urn:message:Shop:OrderCancelled;urn:message:Shop:IEvent"),
    ),
    "NServiceBus": (
        header("NServiceBus.EnclosedMessageTypes", f"{NAMES};Shop.IEvent, Shop.Messages"),
        header("NServiceBus.EnclosedMessageTypes", "Shop.OrderPaid, Shop;Shop.IEvent, Shop"),
    ),
    "Rebus": (
        header("rbs2-msg-type", "Shop.OrderCreated, Shop.Messages"),
        header("rbs2-msg-type", "Shop.OrderCancelled, Shop.Messages"),
    ),
    "Wolverine": (
        ("Shop.OrderCreated", {"message-type": "Shop.OrderCreated"}),
        ("Shop.OrderPaid", {"message-type": "Shop.OrderPaid"}),
    ),
    "CAP": (header("cap-msg-type", "OrderCreated"), header("cap-msg-type", "OrderPaid")),
    "Spring AMQP": (
        header("__TypeId__", "com.example.shop.OrderCreated"),
        header("__TypeId__", "java.util.HashMap"),
    ),
    "Spring AMQP, nested class": (
        header("__TypeId__", "com.example.shop.Events$OrderCreated"),
        header("__TypeId__", "com.example.shop.OrderCreated$Item"),
    ),
    "Spring Integration": (
        header("json__TypeId__", "com.example.shop.OrderCreated"),
        header("json__TypeId__", "com.example.shop.OrderShipped"),
    ),
    "Axon": (
        header("axon-message-type", "com.example.shop.OrderCreated"),
        header("axon-message-type", "com.example.shop.OrderConfirmed"),
    ),
    "Eventuate Tram": (
        header("event-type", "com.example.shop.OrderCreated"),
        header("event-type", "com.example.shop.OrderRejected"),
    ),
    "Debezium outbox": (header("eventType", "OrderCreated"), header("eventType", "OrderDeleted")),
    "JMS": (header("JMSType", "OrderCreated"), header("JMSType", "TextMessage")),
    "Celery": (
        header("task", "shop.tasks.order_created"),
        header("task", "shop.tasks.send_mail"),
    ),
    "Taskiq": (
        header("task_name", "shop.tasks:order_created"),
        header("task_name", "shop.tasks:send_mail"),
    ),
    "Symfony Messenger": (
        header("type", "App\\Message\\OrderCreated"),
        header("type", "App\\Message\\OrderCancelled"),
    ),
    "Rails Event Store": (
        header("event_type", "Shop::OrderCreated"),
        header("event_type", "Shop::OrderPaid"),
    ),
    "Node": (header("messageType", "order-created"), header("messageType", "order-updated")),
    "Go": (("events.OrderCreated", {}), ("*events.OrderCancelled", {})),
    "Protobuf": (
        ("type.example.com/shop.OrderCreated", {}),
        ("type.example.com/shop.OrderPaid", {}),
    ),
    "CloudEvents, AMQP binding": (
        header("cloudEvents_type", "com.example.OrderCreated"),
        header("cloudEvents_type", "com.example.OrderCancelled"),
    ),
    "CloudEvents, AMQP binding with a colon": (
        header("cloudEvents:type", "com.example.order.created"),
        header("cloudEvents:type", "com.example.order.cancelled"),
    ),
    "CloudEvents, RabbitMQ binding": (
        header("ce-type", "com.example.order.created"),
        header("ce-type", "com.example.order.created.v2"),
    ),
    "CloudEvents, Kafka binding": (
        header("ce_type", "com.example.order.created.v1"),
        header("ce_type", "com.example.order.deleted"),
    ),
    "Laravel and all that name no type": ((None, {"laravel": {"attempts": 0}}), ("App\\Job", {})),
}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_an_order_created_is_recognised_as_this_client_names_it(convention: str) -> None:
    ours, other = CONVENTIONS[convention]
    assert other_type(*ours) is None
    assert other_type(*other) is not None


def test_the_table_of_the_document_has_each_convention_and_each_header() -> None:
    table = (ROOT / "docs/consumers.md").read_text(encoding="utf-8")
    assert len(CONVENTIONS) >= 20
    for convention in CONVENTIONS:
        assert f"| {convention} |" in table, convention
    absent = [name for name in ONE_TYPE | SEVERAL_TYPES if f"`{name}`" not in table.lower()]
    assert absent == []


@pytest.mark.parametrize(
    "name",
    [
        *("OrderCreated", "ordercreated", "ORDER_CREATED", "order.created", "order-created"),
        *("OrderCreated.v1", "urn:shop:OrderCreated:v1", "a/b/OrderCreated", "Outer+OrderCreated"),
        "https://schemas.example.com/orders#OrderCreated",
    ],
)
def test_a_name_that_means_order_created(name: str) -> None:
    assert is_order_created(name)


@pytest.mark.parametrize(
    "name",
    [
        *("OrderCreated.v2", "OrderCreatedV2", "OrderCreated:2", "OrderCreated.v10", "v1"),
        *("PurchaseOrderCreated", "OrderCreatedEvent", "OrderCreated.Item", "Order", "Created"),
        *(
            "OrderCreated\x00",
            "Order Created",
            "x" * LONGEST + ".OrderCreated",
            "Shop, OrderCreated",
        ),
        *("OrderCreat\N{LATIN SMALL LETTER E WITH ACUTE}d", "[OrderCreated]"),
    ],
)
def test_a_name_that_means_something_else(name: str) -> None:
    assert not is_order_created(name)


@pytest.mark.parametrize("absent", [None, "", " "])
def test_an_absent_or_empty_type_names_none(absent: str | None) -> None:
    assert other_type(absent, {"type": absent, "ce-type": absent}) is None


@pytest.mark.parametrize("value", [5, True, {"name": "OrderCreated"}, b"\xff", ["OrderCreated"]])
def test_what_is_no_text_names_no_order_created(value: Any) -> None:
    assert other_type(None, {"type": value}) == "header type"


def test_a_list_of_types_may_be_an_array() -> None:
    assert (
        other_type(None, {"MT-MessageType": ["urn:message:A:B", "urn:message:A:OrderCreated"]})
        is None
    )
    assert other_type(None, {"MT-MessageType": ["urn:message:A:B", 5]}) == "header mt-messagetype"


def test_each_place_has_to_name_it_and_the_place_is_told() -> None:
    assert other_type("OrderCreated", {"ce-type": "Other"}) == "header ce-type"
    assert other_type("Other", {"ce-type": "OrderCreated"}) == "type"
