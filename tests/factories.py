"""One factory for what goes in: an OrderCreated, as a model, as JSON bytes, as a delivery."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from db.outbox import ClaimedEvent
from order_contracts import OrderCreated
from service.outbox.envelope import new_id
from service.rabbitmq.delivery import Delivery


def order_created_fields(**overrides: Any) -> dict[str, Any]:
    """The fields of a valid message by their names on the wire; an override wins or is added."""
    return {
        "orderId": "order-101",
        "userId": "user-456",
        "totalAmount": 99.99,
        "idempotencyKey": "unique-key-001",
        "items": [{"sku": "85123A", "quantity": 6, "unitPrice": "2.55"}],
    } | overrides


def order_created(**overrides: Any) -> OrderCreated:
    return OrderCreated.model_validate(order_created_fields(**overrides))


def order_created_json(**overrides: Any) -> bytes:
    return json.dumps(order_created_fields(**overrides)).encode()


def delivery(
    body: bytes, *, redelivered: bool = False, headers: dict[str, Any] | None = None, **fields: Any
) -> Delivery:
    """A delivery as aio-pika would hand it over; `fields` are AMQP properties."""
    properties: dict[str, Any] = {
        "content_type": "application/json",
        "content_encoding": None,
        "correlation_id": None,
        "message_id": None,
    } | fields
    raw = SimpleNamespace(
        body=body,
        headers=headers or {},
        redelivered=redelivered,
        delivery_tag=None,
        channel=None,
        **properties,
    )
    return Delivery(raw, "order_created_queue")


def claimed_event(**overrides: Any) -> ClaimedEvent:
    """An event as a claim returns it, of an aggregate of its own."""
    event = ClaimedEvent(
        event_id=new_id(),
        event_type="OrderProcessed",
        aggregate_type="order",
        aggregate_id=new_id(),
        exchange="order_events",
        routing_key="order.processed",
        payload=b"{}",
        content_type=None,
        correlation_id=None,
        headers={},
    )
    return event._replace(**overrides)
