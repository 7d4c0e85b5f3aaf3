"""Decisions to rows: what is stored of an order or a dead letter, and what is to be published."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import uuid_utils
from pydantic import BaseModel

from db.outbox import ClaimedEvent
from order_contracts import FailureReason, OrderFailed, OrderProcessed
from service.inbound import Candidate, Refused
from service.rabbitmq.delivery import Delivery
from service.rabbitmq.field_table import ROUTING_HEADERS
from service.rabbitmq.origin import DEAD_LETTER, DEAD_LETTER_IDS, dead_letter_ids
from service.rabbitmq.topology import Topology

SOURCE = "/order-service"
# The binding allows `cloudEvents:` too, and prefers this: JMS allows no colon in a name.
CLOUD_EVENTS_PREFIX = "cloudEvents_"
# Of a dead letter: nothing is known of its bytes, whatever its sender called them; what that was is
# in `x-original-content-type`.
ANY_BYTES = "application/octet-stream"
CENT = Decimal("0.01")
UNKNOWN_ORDER = "UNKNOWN"
CONFLICTS = {FailureReason.IDEMPOTENCY_CONFLICT, FailureReason.ORDER_ID_CONFLICT}
# Of a dead letter, beside those of its sender.
OWN_HEADERS = (
    *(DEAD_LETTER_IDS, "x-failure-reason", "x-failure-details"),
    *("x-original-queue", "x-received-at"),
)
MAX_DETAILS = 900  # of the column's 1,000 characters

Row = dict[str, Any]


def new_id() -> str:
    """A UUIDv7 (RFC 9562): unique, and sorted by the time it was made."""
    return str(uuid_utils.uuid7())


def made_at(event_id: str) -> datetime:
    """The moment that an id carries, in milliseconds."""
    return datetime.fromtimestamp(uuid_utils.UUID(event_id).timestamp / 1000, UTC)


def cloud_event(event: ClaimedEvent) -> dict[str, str]:
    """CloudEvents 1.0, AMQP protocol binding, binary content mode: headers that follow from the
    event, and are not stored. `datacontenttype` is the property `content_type`."""
    attributes = {
        "specversion": "1.0",
        "id": event.event_id,
        "source": SOURCE,
        "type": event.event_type,
        "subject": event.aggregate_id,
        "time": made_at(event.event_id).isoformat(timespec="milliseconds"),
    }
    return {f"{CLOUD_EVENTS_PREFIX}{name}": value for name, value in attributes.items()}


def to_publish(row: Row) -> ClaimedEvent:
    """The event of a new outbox row, as a claim would read it back."""
    return ClaimedEvent(*(row[name] for name in ClaimedEvent._fields if name in row))


def order_row(candidate: Candidate, now: datetime) -> Row:
    order = candidate.order
    return {
        "order_id": order.order_id,
        "user_id": order.user_id,
        "total_amount": order.total_amount.quantize(CENT),
        "status": "PROCESSED",
        "idempotency_key": order.idempotency_key,
        "fingerprint": candidate.fingerprint,
        "items": [
            {"sku": item.sku, "quantity": item.quantity, "unitPrice": str(item.unit_price)}
            for item in order.items
        ],
        "created_at": now,
        "updated_at": now,
    }


@dataclass(frozen=True, slots=True)
class Events:
    """Makes outbox rows for one topology."""

    topology: Topology

    def processed(self, candidate: Candidate, event_id: str, now: datetime) -> Row:
        order = candidate.order
        event = OrderProcessed(
            order_id=order.order_id,
            idempotency_key=order.idempotency_key,
            processing_timestamp=now,
        )
        return self._event(
            event,
            routing_key=self.topology.processed_key,
            aggregate=("order", order.order_id),
            delivery=candidate.delivery,
            event_id=event_id,
        )

    def failed(self, refused: Refused, dead_letter_id: str, event_id: str) -> Row:
        event = OrderFailed(
            order_id=refused.order_id or UNKNOWN_ORDER,
            reason=refused.refusal.reason,
            error_details=refused.refusal.details[:MAX_DETAILS],
        )
        # A conflict belongs to its order and follows that order's events; an invalid message is
        # an aggregate of its own, so that a flood of them waits for nobody.
        conflict = refused.refusal.reason in CONFLICTS
        return self._event(
            event,
            routing_key=self.topology.failed_key,
            aggregate=("order", str(refused.order_id)) if conflict else ("failure", dead_letter_id),
            delivery=refused.delivery,
            event_id=event_id,
        )

    def dead_letter(self, refused: Refused, dead_letter_id: str, received_at: datetime) -> Row:
        """The copy for the dead-letter queue: the original body and headers, and why.

        `received_at` is that of the first delivery: a copy is the same however often it is made.
        """
        delivery = refused.delivery
        ids = dict.fromkeys([*dead_letter_ids(delivery.raw), dead_letter_id])
        return {
            "event_id": dead_letter_id,
            "event_type": DEAD_LETTER,
            "aggregate_type": "dead_letter",
            "aggregate_id": dead_letter_id,
            "exchange": self.topology.exchange,
            "routing_key": self.topology.dead_letter_key,
            "payload": delivery.body,
            "content_type": ANY_BYTES,
            "correlation_id": delivery.correlation_id,
            "lease_token": None,
            "headers": {
                **delivery.headers_to_publish(),
                # All of them: two installations would not recognise what went through the other.
                DEAD_LETTER_IDS: ",".join(ids),
                "x-failure-reason": str(refused.refusal.reason),
                "x-failure-details": refused.refusal.details[:MAX_DETAILS],
                "x-original-queue": delivery.queue,
                "x-received-at": received_at.isoformat(),
            },
        }

    def returned(self, refused: Refused, dead_letter_id: str, received_at: datetime) -> Row:
        """The copy of a dead letter that came back, with the headers that it came back with."""
        headers = refused.delivery.headers().items()
        return self.dead_letter(refused, dead_letter_id, received_at) | {
            "headers": {name: each for name, each in headers if name.lower() not in ROUTING_HEADERS}
        }

    def _event(
        self,
        event: BaseModel,
        *,
        routing_key: str,
        aggregate: tuple[str, str],
        delivery: Delivery,
        event_id: str,
    ) -> Row:
        event_type = type(event).__name__
        return {
            "event_id": event_id,
            "event_type": event_type,
            "aggregate_type": aggregate[0],
            "aggregate_id": aggregate[1],
            "exchange": self.topology.exchange,
            "routing_key": routing_key,
            "payload": event.model_dump_json(by_alias=True).encode(),
            "content_type": "application/json",
            "correlation_id": delivery.correlation_id or event_id,
            "lease_token": None,
            "headers": delivery.trace,
        }


def dead_letter_row(refused: Refused, dead_letter_id: str, digest: bytes, occurrence: int) -> Row:
    delivery = refused.delivery
    details = refused.refusal.details[:MAX_DETAILS]
    if not delivery.storable:
        details += " (too large to be stored: the body is in the dead-letter queue alone)"
    elif refused.shortened:
        details += " (the database will not take it: all of it is in the dead-letter queue alone)"
    return {
        "dead_letter_id": dead_letter_id,
        "message_digest": digest,
        "occurrence": occurrence,
        "order_id": refused.order_id,
        "reason": str(refused.refusal.reason),
        "details": details,
        "queue": delivery.queue,
        "body": delivery.body if refused.keeps_body else b"",
        "headers": {} if refused.shortened else delivery.headers(),
        "properties": {} if refused.shortened else delivery.properties(),
        "received_at": delivery.received_at,
    }
