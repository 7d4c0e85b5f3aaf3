"""Decisions to rows: the exact bytes to publish, and what is stored of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from order_contracts import FailureReason
from service.config.settings import Settings
from service.domain.errors import Refusal
from service.domain.message_type import other_type
from service.inbound import Candidate, Refused
from service.outbox.envelope import (
    MAX_DETAILS,
    Events,
    dead_letter_row,
    new_id,
    order_row,
    to_publish,
)
from service.outbox.publisher import properties_of
from service.rabbitmq.delivery import Delivery
from service.rabbitmq.origin import content_type, named_types
from service.rabbitmq.topology import Topology
from tests.factories import delivery, order_created, order_created_json

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
EVENTS = Events(Topology.of(Settings()))
TRACE_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def candidate(properties: dict[str, Any] | None = None, **overrides: Any) -> Candidate:
    return Candidate.of(
        order_created(**overrides),
        delivery(order_created_json(**overrides), **(properties or {})),
    )


def refused(
    each: Delivery,
    reason: FailureReason = FailureReason.INVALID_JSON,
    order_id: str | None = None,
    details: str = "body: not JSON at line 1, column 1",
) -> Refused:
    return Refused(Refusal(reason, details), each, order_id)


def test_an_event_id_is_a_uuid_of_version_7_that_sorts_by_time() -> None:
    ids = [new_id() for _ in range(100)]
    assert ids == sorted(set(ids))
    assert all(len(each) == 36 and each[14] == "7" for each in ids)


def test_an_order_row_has_the_content_exactly() -> None:
    row = order_row(
        candidate(items=[{"sku": "\u00e9", "quantity": 2**62, "unitPrice": "0.10"}]), NOW
    )
    assert row["items"] == [{"sku": "\u00e9", "quantity": 2**62, "unitPrice": "0.10"}]
    assert str(row["total_amount"]) == "99.99"
    assert (row["status"], row["created_at"], row["updated_at"]) == ("PROCESSED", NOW, NOW)
    assert len(row["fingerprint"]) == 32


def test_order_processed_is_published_as_the_contract_says() -> None:
    row = EVENTS.processed(candidate(), new_id(), NOW)
    assert json.loads(row["payload"]) == {
        "orderId": "order-101",
        "idempotencyKey": "unique-key-001",
        "status": "PROCESSED",
        "processingTimestamp": "2026-01-31T12:00:00.000000Z",
    }
    assert (row["exchange"], row["routing_key"]) == ("order_events", "order.processed")
    assert (row["event_type"], row["content_type"]) == ("OrderProcessed", "application/json")
    assert row["headers"] == {}


def test_an_event_is_a_cloud_event_and_the_same_one_each_time_it_is_published() -> None:
    row = EVENTS.processed(candidate({"headers": {"traceparent": TRACE_PARENT}}), new_id(), NOW)
    event_id = "019a2f4b-7c00-7b3e-9d52-6f0e5a1c8d47"
    published = properties_of(to_publish(row | {"event_id": event_id}))
    assert published["headers"] == {
        "cloudEvents_specversion": "1.0",
        "cloudEvents_id": event_id,
        "cloudEvents_source": "/order-service",
        "cloudEvents_type": "OrderProcessed",
        "cloudEvents_subject": "order-101",
        "cloudEvents_time": "2025-10-29T09:27:47.456+00:00",
        "traceparent": TRACE_PARENT,
    }


def test_a_dead_letter_is_an_event_of_ours_whatever_its_original_was() -> None:
    sent = {"cloudEvents:type": "Other", "cloudEvents_id": "o-1", "tenant": "t-1"}
    letter_id = new_id()
    each = refused(delivery(b"{", headers=sent, type="Other", content_type="application/json"))
    published = properties_of(to_publish(EVENTS.dead_letter(each, letter_id, NOW)))
    headers = published["headers"]
    assert published["content_type"] == "application/octet-stream"
    assert (headers["cloudEvents_type"], headers["cloudEvents_id"]) == ("DeadLetter", letter_id)
    assert "cloudEvents:type" not in headers
    assert headers["x-original-cloudEvents:type"] == "Other"
    assert headers["x-original-cloudEvents_id"] == "o-1"
    assert headers["x-original-type"] == "Other"
    assert headers["x-original-content-type"] == "application/json"
    assert headers["tenant"] == "t-1"


def test_a_dead_letter_that_comes_back_is_read_as_its_original_was() -> None:
    sent = {"cloudEvents_type": "Other", "cloudEvents_id": "o-1"}
    structured = "application/cloudevents+json"
    each = refused(delivery(b"{", headers=sent, type="OrderCreated", content_type=structured))
    for _ in range(2):  # by this installation, and by another one after it
        letter_id = new_id()
        copy = properties_of(to_publish(EVENTS.dead_letter(each, letter_id, NOW)))
        raw = delivery(
            b"{",
            headers=copy["headers"],
            message_id=letter_id,
            app_id=copy["app_id"],
            type="DeadLetter",
            content_type=copy["content_type"],
        ).raw
        assert content_type(raw) == structured
        kind, headers = named_types(raw)
        assert kind == "OrderCreated"
        assert headers["cloudEvents_type"] == "Other"
        assert other_type(kind, headers) == "header cloudevents_type"
        each = refused(Delivery(raw, "order_created_queue"))


def test_another_type_stays_one_where_the_header_that_named_it_was_too_large() -> None:
    sent = {"ce-type": "Other", "h": "x" * 100_000}
    each = refused(delivery(b"{}", headers=sent), FailureReason.UNSUPPORTED_TYPE)
    headers = properties_of(to_publish(EVENTS.dead_letter(each, new_id(), NOW)))["headers"]
    headers["x-dead-letter-id"] = new_id()
    assert other_type(*named_types(delivery(b"{}", headers=headers).raw)) == "type"


def test_trace_and_correlation_travel_through() -> None:
    properties = {"headers": {"traceparent": TRACE_PARENT}, "correlation_id": "c-1"}
    row = EVENTS.processed(candidate(properties), new_id(), NOW)
    assert row["correlation_id"] == "c-1"
    assert row["headers"]["traceparent"] == TRACE_PARENT


def test_an_event_without_a_correlation_starts_one() -> None:
    row = EVENTS.processed(candidate(), new_id(), NOW)
    assert row["correlation_id"] == row["event_id"]


@pytest.mark.parametrize(("order_id", "named"), [(None, "UNKNOWN"), ("order-7", "order-7")])
def test_order_failed_is_published_as_the_contract_says(order_id: str | None, named: str) -> None:
    each = refused(delivery(b"{"), order_id=order_id)
    row = EVENTS.failed(each, new_id(), new_id())
    assert json.loads(row["payload"]) == {
        "orderId": named,
        "reason": "INVALID_JSON",
        "errorDetails": "body: not JSON at line 1, column 1",
    }
    assert (row["routing_key"], row["event_type"]) == ("order.failed", "OrderFailed")


def test_a_conflict_follows_the_events_of_its_order() -> None:
    conflict = refused(delivery(b"{}"), FailureReason.ORDER_ID_CONFLICT, "order-7")
    row = EVENTS.failed(conflict, "letter", new_id())
    assert (row["aggregate_type"], row["aggregate_id"]) == ("order", "order-7")


@pytest.mark.parametrize("order_id", [None, "order-7"])
def test_an_invalid_message_waits_for_nobody(order_id: str | None) -> None:
    each = refused(delivery(b"{}"), FailureReason.INVALID_PAYLOAD, order_id)
    row = EVENTS.failed(each, "letter", new_id())
    assert (row["aggregate_type"], row["aggregate_id"]) == ("failure", "letter")


def test_a_dead_letter_is_the_original_with_its_reason() -> None:
    each = delivery(b"\x00\xff{", headers={"h": 1, "CC": ["x"]}, content_type="text/plain")
    row = EVENTS.dead_letter(refused(each), "letter", NOW)
    assert row["payload"] == b"\x00\xff{"
    assert row["content_type"] == "application/octet-stream"
    assert (row["event_id"], row["routing_key"]) == ("letter", "order.dead_letter")
    assert row["headers"] == {
        "h": 1,
        "x-original-CC": ["x"],
        "x-original-content-type": "text/plain",
        "x-dead-letter-id": "letter",
        "x-failure-reason": "INVALID_JSON",
        "x-failure-details": "body: not JSON at line 1, column 1",
        "x-original-queue": "order_created_queue",
        "x-received-at": NOW.isoformat(),
    }


def test_a_sender_cannot_write_the_reason_of_a_dead_letter() -> None:
    forged = {"x-failure-reason": "x", "x-failure-details": "x", "x-original-queue": "x"}
    headers = EVENTS.dead_letter(refused(delivery(b"", headers=forged)), "letter", NOW)["headers"]
    assert not {headers[name] for name in forged} & {"x"}


def test_the_row_of_a_dead_letter_has_everything_that_came() -> None:
    each = delivery(b"{", headers={"h": b"\xff"}, message_id="m-1", reply_to="r-1")
    row = dead_letter_row(refused(each), "letter", each.digest(), 2)
    assert row["body"] == b"{"
    assert row["headers"] == {"h": {"$bytes": "/w=="}}
    assert row["properties"] == {
        "content_type": "application/json",
        "message_id": "m-1",
        "reply_to": "r-1",
    }
    assert (row["message_digest"], row["occurrence"]) == (each.digest(), 2)


def test_details_fit_into_their_column() -> None:
    each = refused(delivery(b"{"), details="x" * 5000)
    event = json.loads(EVENTS.failed(each, "letter", new_id())["payload"])
    headers = EVENTS.dead_letter(each, "letter", NOW)["headers"]
    row = dead_letter_row(each, "letter", b"", 1)
    for details in (event["errorDetails"], headers["x-failure-details"], row["details"]):
        assert details == "x" * MAX_DETAILS
