"""What is to be said of each message beyond its payload: properties, headers, examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from service.web.asyncapi.headers import (
    DEAD_LETTER_ID,
    EVENT_ID,
    TRACE_PARENT,
    DeadLetterHeaders,
    OrderCreatedHeaders,
    OrderFailedHeaders,
    OrderProcessedHeaders,
)


@dataclass(frozen=True, slots=True)
class Example:
    name: str
    summary: str
    payload: Any
    headers: dict[str, Any]


@dataclass(frozen=True, slots=True)
class MessageNotes:
    """One message. `properties` are AMQP's, which AsyncAPI has no place for: a table says them."""

    operation: str
    summary: str
    text: str
    properties: dict[str, str]
    headers: type[BaseModel]
    examples: tuple[Example, ...]
    content_type: str = "application/json"
    type_property: bool = True

    @property
    def description(self) -> str:
        rows = (f"| `{name}` | {meaning} |" for name, meaning in self.properties.items())
        return "\n".join([self.text, "", "| AMQP property | |", "|---|---|", *rows])


def _event_properties(name: str, what: str) -> dict[str, str]:
    return {
        "message_id": f"The {what}'s id, a UUIDv7; the same on every re-publication.",
        "type": f"`{name}`",
        "timestamp": "When it was recorded, in whole seconds.",
        "correlation_id": (
            "The original message's correlation id, else its message id"
            + (", else the event's own id." if what == "event" else "; absent without either.")
        ),
        "content_type": (
            "`application/json`"
            if what == "event"
            else "`application/octet-stream`: its bytes may be anything."
        ),
        "delivery_mode": "2: persistent.",
        "app_id": "`order-service`",
    }


def _event_headers(name: str, subject: str) -> dict[str, Any]:
    return {
        "cloudEvents_specversion": "1.0",
        "cloudEvents_id": EVENT_ID,
        "cloudEvents_source": "/order-service",
        "cloudEvents_type": name,
        "cloudEvents_subject": subject,
        "cloudEvents_time": "2026-01-31T12:00:00.000+00:00",
        "traceparent": TRACE_PARENT,
    }


_AT_LEAST_ONCE = (
    "Delivered at least once: a repetition has the same `message_id`, so remember the ones you "
    "have seen. Events of one order are published in their order."
)

# In the order of the document.
MESSAGES = {
    "OrderCreated": MessageNotes(
        operation="Process an order, once in effect, however often it is delivered.",
        summary="An order was placed somewhere.",
        text=(
            "Strict UTF-8 JSON of at most 256 KiB and 32 levels, not compressed, no duplicate "
            "keys, no NaN or Infinity. Send it as often as you like: the `idempotencyKey` makes "
            "it count once."
        ),
        properties={
            "message_id": "Optional. Yours; goes on as the correlation id if there is no other.",
            "correlation_id": "Optional. Comes back on the event.",
            "type": "Absent, or OrderCreated, with or without a namespace (docs/consumers.md).",
            "content_type": "`application/json`, or `application/cloudevents+json`.",
            "content_encoding": "Absent, `identity`, or a name of UTF-8.",
            "reply_to": "Ignored.",
        },
        headers=OrderCreatedHeaders,
        type_property=False,
        examples=(
            Example(
                "smallest",
                "An order without lines, the amount as a number",
                {
                    "orderId": "order-101",
                    "userId": "user-456",
                    "totalAmount": 99.99,
                    "idempotencyKey": "unique-key-001",
                    "items": [],
                },
                {},
            ),
            Example(
                "lines",
                "With lines, amounts as decimal strings, traced",
                {
                    "orderId": "536365",
                    "userId": "17850",
                    "totalAmount": "35.64",
                    "idempotencyKey": "online-retail-536365",
                    "items": [
                        {"sku": "85123A", "quantity": 6, "unitPrice": "2.55"},
                        {"sku": "71053", "quantity": 6, "unitPrice": "3.39"},
                    ],
                },
                {"traceparent": TRACE_PARENT},
            ),
        ),
    ),
    "OrderProcessed": MessageNotes(
        operation="Say that an order is stored.",
        summary="The order is stored.",
        text=_AT_LEAST_ONCE,
        properties=_event_properties("OrderProcessed", "event"),
        headers=OrderProcessedHeaders,
        examples=(
            Example(
                "processed",
                "The order was stored",
                {
                    "orderId": "order-101",
                    "idempotencyKey": "unique-key-001",
                    "status": "PROCESSED",
                    "processingTimestamp": "2026-01-31T12:00:00.000000Z",
                },
                _event_headers("OrderProcessed", "order-101"),
            ),
        ),
    ),
    "OrderFailed": MessageNotes(
        operation="Say that a message could not become an order.",
        summary="A message could not become an order.",
        text=f"Its dead letter has the same reason. {_AT_LEAST_ONCE}",
        properties=_event_properties("OrderFailed", "event"),
        headers=OrderFailedHeaders,
        examples=(
            Example(
                "invalid",
                "A field breaks a rule",
                {
                    "orderId": "order-101",
                    "reason": "INVALID_PAYLOAD",
                    "errorDetails": "totalAmount: Input should be greater than 0",
                },
                _event_headers("OrderFailed", DEAD_LETTER_ID),
            ),
            Example(
                "unreadable",
                "Not JSON: no order id can be told",
                {
                    "orderId": "UNKNOWN",
                    "reason": "INVALID_JSON",
                    "errorDetails": "body: not JSON at line 1, column 15",
                },
                _event_headers("OrderFailed", DEAD_LETTER_ID),
            ),
            Example(
                "conflict",
                "The idempotency key has been used for something else",
                {
                    "orderId": "order-101",
                    "reason": "IDEMPOTENCY_CONFLICT",
                    "errorDetails": "idempotencyKey: was used before with other content",
                },
                _event_headers("OrderFailed", "order-101"),
            ),
        ),
    ),
    "DeadLetter": MessageNotes(
        operation="Put aside what could not become an order, so that nothing is lost.",
        summary="What could not become an order, as it came, and why.",
        text=(
            "The original body, byte for byte, whatever it was. Repetitions have the same "
            "`message_id`. The queue also gets what RabbitMQ moved there itself, after a handler "
            "died of it too often: the original message, with RabbitMQ's `x-death` headers and "
            "without the `x-failure-` ones."
        ),
        properties=_event_properties("DeadLetter", "dead letter"),
        headers=DeadLetterHeaders,
        content_type="application/octet-stream",
        examples=(
            Example(
                "invalid",
                "An OrderCreated with an amount of nothing",
                '{"orderId": "order-101", "userId": "user-456", "totalAmount": 0, '
                '"idempotencyKey": "unique-key-001", "items": []}',
                {
                    **_event_headers("DeadLetter", DEAD_LETTER_ID),
                    "cloudEvents_id": DEAD_LETTER_ID,
                    "x-original-content-type": "application/json",
                    "x-failure-reason": "INVALID_PAYLOAD",
                    "x-failure-details": "totalAmount: Input should be greater than 0",
                    "x-dead-letter-id": DEAD_LETTER_ID,
                    "x-original-queue": "order_created_queue",
                    "x-received-at": "2026-01-31T12:00:00.000000+00:00",
                },
            ),
        ),
    ),
}
