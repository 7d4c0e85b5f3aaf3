"""asyncapi.yaml: what the code says, complete, and in step with what is really sent."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import yaml
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema
from pydantic import BaseModel

from order_contracts import FailureReason, OrderCreated, OrderFailed, OrderProcessed
from service.app import create_app
from service.config.settings import Settings
from service.domain.errors import Refusal
from service.inbound import Candidate, Refused
from service.outbox.envelope import Events, new_id, to_publish
from service.outbox.publisher import properties_of
from service.rabbitmq.delivery import Delivery
from service.rabbitmq.topology import Topology
from service.web.asyncapi.contract import merged

ROOT = Path(__file__).parents[2]
COMMITTED = (ROOT / "asyncapi.yaml").read_text()
DOCUMENT: dict[str, Any] = yaml.safe_load(COMMITTED)
SCHEMAS: dict[str, dict[str, Any]] = DOCUMENT["components"]["schemas"]
EXAMPLES = [
    pytest.param(name, example, id=f"{name}-{example['name']}")
    for name, message in DOCUMENT["components"]["messages"].items()
    for example in message["examples"]
]
PAYLOADS: dict[str, type[BaseModel]] = {
    "OrderCreated": OrderCreated,
    "OrderProcessed": OrderProcessed,
    "OrderFailed": OrderFailed,
}


def generated(**settings: Any) -> str:
    return create_app(Settings(**settings)).schema.to_specification().to_yaml()


def refused(reason: FailureReason = FailureReason.IDEMPOTENCY_CONFLICT) -> Refused:
    return Refused(Refusal(reason, "a field: a rule"), delivery(), "order-101")


def delivery() -> Delivery:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    raw = SimpleNamespace(
        body=b"{}",
        headers={"traceparent": trace, "tracestate": "vendor=opaque"},
        content_type="application/json",
        content_encoding=None,
        correlation_id=None,
        message_id="a-message",
        redelivered=False,
    )
    return Delivery(raw, "order_created_queue")


def candidate() -> Candidate:
    order = OrderCreated.model_validate(
        {
            "orderId": "order-101",
            "userId": "user-456",
            "totalAmount": 1,
            "idempotencyKey": "unique-key-001",
            "items": [],
        }
    )
    return Candidate.of(order, delivery())


def test_the_committed_document_is_what_the_code_says() -> None:
    assert generated() == COMMITTED, "asyncapi.yaml is out of date: run `make docs`"


def test_it_says_what_it_is_and_where() -> None:
    assert DOCUMENT["asyncapi"] == "3.1.0"
    info = DOCUMENT["info"]
    assert info["title"]
    assert info["version"]
    assert info["description"]
    assert info["license"]["name"] == "Apache-2.0"
    assert "contact" not in info
    (server,) = DOCUMENT["servers"].values()
    assert f"{server['protocol']}://{server['host']}{server['pathname']}" == "amqp://rabbitmq:5672/"
    assert [resolved(each)["type"] for each in server["security"]] == ["userPassword"]


def test_every_message_is_received_or_sent_as_designed() -> None:
    actions = {name: each["action"] for name, each in DOCUMENT["operations"].items()}
    assert actions == {
        "OrderCreated": "receive",
        "OrderProcessed": "send",
        "OrderFailed": "send",
        "DeadLetter": "send",
    }


def test_configured_names_of_queues_and_exchange_are_in_it() -> None:
    document = yaml.safe_load(
        generated(
            incoming_order_queue="in",
            outgoing_processed_queue="done",
            dlq_queue="aside",
            events_exchange="events",
        )
    )
    channels = document["channels"]
    assert channels["OrderCreated"]["address"] == "in"
    assert "`done`" in channels["OrderProcessed"]["description"]
    assert "`aside`" in channels["DeadLetter"]["description"]
    assert channels["OrderProcessedQueue"]["address"] == "done"
    dead_letters_to = channels["OrderCreated"]["bindings"]["amqp"]["queue"]["x-arguments"]
    assert dead_letters_to["x-dead-letter-routing-key"] == "aside"
    assert "`events`" in document["info"]["description"]
    assert channels["OrderFailed"]["bindings"]["amqp"]["exchange"]["name"] == "events"


def test_each_queue_is_a_channel_with_the_arguments_that_it_is_declared_with() -> None:
    topology = Topology.of(Settings())
    queues = [
        channel["bindings"]["amqp"]["queue"]
        for channel in DOCUMENT["channels"].values()
        if channel["bindings"]["amqp"]["is"] == "queue"
    ]
    assert {queue["name"]: queue["x-arguments"] for queue in queues} == {
        queue.name: queue.arguments for queue in topology.queues
    }
    assert all(queue["durable"] for queue in queues)


def test_every_channel_and_operation_is_described() -> None:
    for part in (*DOCUMENT["channels"].values(), *DOCUMENT["operations"].values()):
        assert part["title"]
        assert part["description"]
        assert part["tags"] == [{"name": "orders"}]


def test_it_says_what_a_consumer_tolerates_and_where_no_header_is_none() -> None:
    said = " ".join(DOCUMENT["info"]["description"].split())
    for word in ("repeats", "fields and headers", "reasons"):
        assert word in said
    for message in DOCUMENT["components"]["messages"].values():
        assert "correlationId" not in message  # a property, for which there is no expression
    assert SCHEMAS["OrderItem"]["properties"]["quantity"]["format"] == "int64"


def test_faststream_reads_it_so_docs_serve_works() -> None:
    read = ApplicationSchema.model_validate(DOCUMENT)
    assert (read.asyncapi, len(read.channels)) == ("3.1.0", 7)


def test_a_patch_merges_as_rfc_7396_says() -> None:
    target = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert merged(target, {"a": {"b": None, "x": {"y": None}}, "d": [2]}) == {
        "a": {"c": 2, "x": {}},
        "d": [2],
    }
    assert target == {"a": {"b": 1, "c": 2}, "d": [1]}


def test_every_property_of_every_schema_is_described() -> None:
    properties = dict(all_properties())
    assert len(properties) > 25
    assert [
        path for path, each in properties.items() if not resolved(each).get("description")
    ] == []


def test_every_property_has_an_example_a_constant_or_named_parts() -> None:
    bare = [
        path
        for path, each in all_properties()
        if not {"examples", "const", "enum", "items"} & resolved(each).keys()
    ]
    assert bare == []


def test_no_schema_is_empty_or_oddly_named() -> None:
    for name, schema in SCHEMAS.items():
        assert name.isalnum(), name
        assert schema["title"] == name
        assert schema["description"]
        assert schema.get("properties") or schema["type"] == "string", name


def test_every_failure_reason_is_listed_and_explained() -> None:
    schema = SCHEMAS["FailureReason"]
    assert schema["enum"] == [str(reason) for reason in FailureReason]
    for reason in FailureReason:
        assert f"- `{reason}`: " in schema["description"]


def test_every_message_has_examples_and_a_description() -> None:
    for name, message in DOCUMENT["components"]["messages"].items():
        assert message["name"] == name
        assert message["examples"], name
        assert message["description"], name
        assert message["summary"], name


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_an_example_keeps_its_own_schema(name: str, example: dict[str, Any]) -> None:
    message = DOCUMENT["components"]["messages"][name]
    validator(message["payload"]).validate(example["payload"])
    validator(headers_of(name)).validate(example.get("headers", {}))
    if model := PAYLOADS.get(name):
        read = model.model_validate(example["payload"])
        assert set(read.model_dump(by_alias=True)) == set(example["payload"])


@pytest.mark.parametrize("amount", [0, -1, 100000000, "0", "0.00", "-1", "1e3", "1.005", "01", ""])
def test_an_amount_that_the_service_refuses_breaks_the_schema_too(amount: Any) -> None:
    schema = SCHEMAS["OrderCreated"]["properties"]["totalAmount"]
    assert not validator(schema).is_valid(amount)
    assert validator(schema).is_valid("99999999.990")


def test_the_headers_sent_are_the_headers_described() -> None:
    events = Events(Topology.of(Settings()))
    now = datetime(2026, 1, 31, 12, tzinfo=UTC)
    letter_id = new_id()
    for name, row in {
        "OrderProcessed": events.processed(candidate(), new_id(), now),
        "OrderFailed": events.failed(refused(), letter_id, new_id()),
        "DeadLetter": events.dead_letter(refused(), letter_id, now),
    }.items():
        headers = properties_of(to_publish(row))["headers"]
        described = headers_of(name)
        validator(described).validate(headers)
        own = {key for key in headers if name != "DeadLetter" or key.startswith("x-")}
        assert own <= described["properties"].keys()


def all_properties() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, schema in SCHEMAS.items():
        for key, each in schema.get("properties", {}).items():
            yield f"{name}.{key}", each
    for name in DOCUMENT["components"]["messages"]:
        for key, each in headers_of(name)["properties"].items():
            yield f"{name}.headers.{key}", each


def headers_of(name: str) -> dict[str, Any]:
    """The headers of a message and of its traits, all of them required that either requires."""
    message = DOCUMENT["components"]["messages"][name]
    parts = [resolved(trait)["headers"] for trait in message.get("traits", [])]
    parts += [message["headers"]] if "headers" in message else []
    return {
        "properties": {key: each for part in parts for key, each in part["properties"].items()},
        "required": [key for part in parts for key in part.get("required", [])],
    }


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = part
    while "$ref" in found:
        pointer, found = found["$ref"], DOCUMENT
        for key in pointer.removeprefix("#/").split("/"):
            found = found[key]
    return found


def validator(schema: dict[str, Any]) -> jsonschema.Draft7Validator:
    return jsonschema.Draft7Validator({**schema, "components": DOCUMENT["components"]})
