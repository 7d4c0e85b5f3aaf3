"""The checker's own reading of the contract: what a valid message says, what an event must be."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple

from tests.faults.journal import Attempt, Observed

PROCESSED, FAILED, DEAD_LETTER = "OrderProcessed", "OrderFailed", "DeadLetter"
ROUTING_KEYS = {
    "order.processed": PROCESSED,
    "order.failed": FAILED,
    "order.dead_letter": DEAD_LETTER,
}
KEY_CONFLICT, ID_CONFLICT = "IDEMPOTENCY_CONFLICT", "ORDER_ID_CONFLICT"
CONFLICTS = {KEY_CONFLICT, ID_CONFLICT}
FIELDS = {
    PROCESSED: {"orderId", "idempotencyKey", "status", "processingTimestamp"},
    FAILED: {"orderId", "reason", "errorDetails"},
}
DEAD_LETTER_HEADERS = (
    "x-failure-reason",
    "x-failure-details",
    "x-original-queue",
    "x-received-at",
)
LARGEST_STORED = 1024 * 1024


class Item(NamedTuple):
    sku: str
    quantity: int
    price: Decimal


class Content(NamedTuple):
    """What an order says. Equal contents are the same order, however they were written."""

    order_id: str
    user_id: str
    amount: Decimal
    key: str
    items: tuple[Item, ...]


@lru_cache(maxsize=1 << 18)
def content_of(body: bytes) -> Content:
    """What a valid message says; a Decimal compares by value, so 99.9 is 99.90."""
    said = json.loads(body, parse_float=Decimal)
    return Content(
        said["orderId"],
        said["userId"],
        Decimal(said["totalAmount"]),
        said["idempotencyKey"],
        items_of(said["items"]),
    )


def items_of(items: list[dict[str, Any]]) -> tuple[Item, ...]:
    return tuple(Item(i["sku"], int(i["quantity"]), Decimal(i["unitPrice"])) for i in items)


@lru_cache(maxsize=1 << 18)
def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def identity(attempt: Attempt) -> str:
    """What tells an attempt's effects from those of others."""
    return attempt.trace or digest(attempt.body)


def kind_of(event: Observed) -> str:
    return ROUTING_KEYS.get(event.routing_key, event.routing_key)


def payload_of(event: Observed) -> dict[str, Any]:
    """The fields of an OrderProcessed or OrderFailed; none where it is no JSON object."""
    try:
        said = json.loads(event.payload)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def faults_of_form(event: Observed) -> list[str]:
    """How an event differs from what the contract says of its properties and fields."""
    kind = kind_of(event)
    faults = []
    if event.type != kind:
        faults.append(f"type {event.type}, routing key {event.routing_key}")
    if not event.persistent:
        faults.append("not persistent")
    if kind == DEAD_LETTER:
        faults += [f"no header {name}" for name in DEAD_LETTER_HEADERS if name not in event.headers]
        return faults
    if event.content_type != "application/json":
        faults.append(f"content type {event.content_type}")
    if not event.correlation_id:
        faults.append("no correlation id")
    expected = {"cloudEvents_specversion": "1.0", "cloudEvents_id": event.event_id}
    expected["cloudEvents_type"] = kind
    faults += [
        f"{name} is {event.headers.get(name)}"
        for name, value in expected.items()
        if event.headers.get(name) != value
    ]
    said = payload_of(event)
    if set(said) != FIELDS.get(kind):
        faults.append(f"fields {sorted(said)}")
    if kind == PROCESSED and not _is_processed(said):
        faults.append("status or processingTimestamp")
    return faults


def _is_processed(said: dict[str, Any]) -> bool:
    moment = said.get("processingTimestamp")
    try:
        parsed = datetime.fromisoformat(str(moment))
    except ValueError:
        return False
    return said.get("status") == "PROCESSED" and parsed.tzinfo is not None
