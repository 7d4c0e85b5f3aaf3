"""CloudEvents 1.0: what comes in as an envelope, and what goes out, read by the official SDK."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from cloudevents.core.bindings.amqp import AMQPMessage, from_amqp_event
from cloudevents.core.bindings.amqp import to_structured_event as to_structured
from cloudevents.core.v1.event import CloudEvent

from order_contracts import FailureReason
from service.config.settings import Settings
from service.consumer.codec import decode
from service.domain.cloud_events import data_of, is_structured
from service.domain.errors import Refusal
from service.inbound import Candidate, Refused
from service.outbox.envelope import Events, made_at, new_id, to_publish
from service.outbox.publisher import properties_of
from service.rabbitmq.topology import Topology
from tests.factories import delivery, order_created, order_created_fields, order_created_json

EVENTS = Events(Topology.of(Settings()))


def envelope(**overrides: Any) -> dict[str, Any]:
    usual = {
        "specversion": "1.0",
        "id": "e-1",
        "source": "/shop",
        "type": "com.example.OrderCreated",
        "data": order_created_fields(),
    }
    found = usual | overrides
    return {name: value for name, value in found.items() if value is not ...}


@pytest.mark.parametrize(
    ("content_type", "structured"),
    [
        ("application/cloudevents+json", True),
        ("Application/CloudEvents+JSON; charset=utf-8", True),
        ("application/cloudevents-batch+json", False),
        ("application/json", False),
        ("", False),
        (None, False),
    ],
)
def test_an_envelope_is_told_by_its_content_type(
    content_type: str | None, structured: bool
) -> None:
    assert is_structured(content_type) is structured


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"datacontenttype": "application/json; charset=utf-8", "subject": "order-101"},
        {"datacontenttype": "application/vnd.shop+json", "time": "2026-01-31T12:00:00Z"},
        {"dataschema": None, "subject": None, "tenant": "t-1", "traceparent": "x"},
    ],
)
def test_the_data_of_an_envelope_is_the_order(changes: dict[str, Any]) -> None:
    assert data_of(envelope(**changes)) == order_created_fields()


def test_data_in_base64_is_read_as_json_of_its_own() -> None:
    body = order_created_json()
    coded = base64.b64encode(body).decode()
    assert data_of(envelope(data=..., data_base64=coded)) == body


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        *(({name: ...}, name) for name in ("specversion", "id", "source", "type")),
        *(({name: ""}, name) for name in ("specversion", "id", "source", "type", "subject")),
        *(({name: 5}, name) for name in ("id", "source", "type", "time", "datacontenttype")),
        ({"specversion": "0.3"}, "specversion"),
        ({"datacontenttype": "application/xml"}, "datacontenttype"),
        ({"data": ...}, "data"),
        ({"data_base64": "e30="}, "data"),
        ({"data": ..., "data_base64": "no base64"}, "data_base64"),
        ({"data": ..., "data_base64": "\u00e9"}, "data_base64"),
        ({"data": ..., "data_base64": None}, "data_base64"),
    ],
)
def test_an_envelope_that_is_no_cloud_event_is_refused_by_field(
    changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(Refusal) as caught:
        data_of(envelope(**changes))
    assert caught.value.reason == FailureReason.INVALID_PAYLOAD
    assert caught.value.details.partition(":")[0] == field


@pytest.mark.parametrize("body", [[], "text", 1, None])
def test_an_envelope_is_an_object(body: Any) -> None:
    with pytest.raises(Refusal, match="body: a CloudEvent should be an object"):
        data_of(body)


def test_an_envelope_of_another_type_is_refused_as_such() -> None:
    with pytest.raises(Refusal) as caught:
        data_of(envelope(type="com.example.OrderCancelled"))
    assert caught.value.reason == FailureReason.UNSUPPORTED_TYPE


@pytest.mark.parametrize("data", [order_created_fields(), order_created_json()])
def test_what_the_sdk_writes_as_structured_is_read(data: Any) -> None:
    attributes = {
        "id": "e-1",
        "source": "/shop",
        "type": "com.example.OrderCreated",
        "specversion": "1.0",
        "datacontenttype": "application/json",
    }
    sent = to_structured(CloudEvent(attributes=attributes, data=data))
    assert is_structured(str(sent.properties["content-type"]))
    found = data_of(decode(sent.application_data))
    order = decode(found) if isinstance(found, bytes) else found
    assert json.dumps(order, default=float) == json.dumps(order_created_fields())


def test_the_sdk_reads_an_event_of_ours() -> None:
    subject = Candidate.of(order_created(), delivery(order_created_json()))
    event_id = new_id()
    row = EVENTS.processed(subject, event_id, made_at(event_id))
    event = read_by_the_sdk(row)
    assert (event.get_type(), event.get_id(), event.get_source()) == (
        *("OrderProcessed", event_id),
        "/order-service",
    )
    assert (event.get_subject(), event.get_time()) == ("order-101", made_at(event_id))
    assert event.get_data() == json.loads(row["payload"])


def test_the_sdk_reads_a_dead_letter_of_whatever_bytes() -> None:
    letter_id, body = new_id(), b"\xff\x00{"
    sent = {"cloudEvents_type": "Other", "cloudEvents:id": "o-1"}
    raw = delivery(body, headers=sent, content_type="application/cloudevents+json")
    refused = Refused(Refusal(FailureReason.INVALID_JSON, "body: not UTF-8 at byte 0"), raw)
    event = read_by_the_sdk(EVENTS.dead_letter(refused, letter_id, made_at(letter_id)))
    assert (event.get_type(), event.get_id()) == ("DeadLetter", letter_id)
    assert event.get_datacontenttype() == "application/octet-stream"
    assert event.get_data() == body


def read_by_the_sdk(row: dict[str, Any]) -> Any:
    published = to_publish(row)
    properties = properties_of(published)
    return from_amqp_event(
        AMQPMessage(
            properties={"content-type": properties["content_type"]},
            application_properties=properties["headers"],
            application_data=published.payload,
        )
    )
