"""The headers of the messages, for the document: what the service reads, and what it writes."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from order_contracts import FailureReason

TRACE_PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
EVENT_ID = "019a2f4b-7c00-7b3e-9d52-6f0e5a1c8d47"
DEAD_LETTER_ID = "019a2f4b-7c05-70aa-8f11-2b9c40d3e6fa"


class _Headers(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Traced(_Headers):
    traceparent: str | None = Field(
        None,
        pattern=r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
        description="W3C trace context of the order's producer, carried from message to event.",
        examples=[TRACE_PARENT],
    )
    tracestate: str | None = Field(
        None,
        max_length=512,
        description="W3C trace state, carried along with `traceparent`. ASCII.",
        examples=["vendor=opaque"],
    )


class OrderCreatedHeaders(_Traced):
    """All optional. Headers the contract does not know are ignored; a dead letter keeps them."""


class _EventHeaders(_Traced):
    """CloudEvents 1.0, AMQP binding, binary mode; and the trace context of the order."""

    specversion: Literal["1.0"] = Field(
        alias="cloudEvents_specversion",
        description="Version of CloudEvents.",
        examples=["1.0"],
    )
    id: UUID = Field(
        alias="cloudEvents_id",
        description="The event's id, as in the property `message_id`: a UUIDv7.",
        examples=[EVENT_ID],
    )
    source: Literal["/order-service"] = Field(
        alias="cloudEvents_source",
        description="Who says so. With the id it names the event uniquely.",
        examples=["/order-service"],
    )
    time: datetime = Field(
        alias="cloudEvents_time",
        description="When it was decided: UTC, RFC 3339, up to microseconds.",
        examples=["2026-01-31T12:00:00.000000+00:00"],
    )


class OrderProcessedHeaders(_EventHeaders):
    __doc__ = _EventHeaders.__doc__

    type: Literal["OrderProcessed"] = Field(
        alias="cloudEvents_type", description="The event's name.", examples=["OrderProcessed"]
    )
    subject: str = Field(
        alias="cloudEvents_subject", description="The order's id.", examples=["order-101"]
    )


class OrderFailedHeaders(_EventHeaders):
    __doc__ = _EventHeaders.__doc__

    type: Literal["OrderFailed"] = Field(
        alias="cloudEvents_type", description="The event's name.", examples=["OrderFailed"]
    )
    subject: str = Field(
        alias="cloudEvents_subject",
        description="The order's id for a conflict, else the dead letter's id.",
        examples=["order-101", DEAD_LETTER_ID],
    )


class DeadLetterHeaders(_EventHeaders):
    """Why it is here, beside the original message's own headers as they came (a CloudEvent's,
    and `CC` and `BCC`, by which RabbitMQ would route, behind `x-original-`).
    """

    type: Literal["DeadLetter"] = Field(
        alias="cloudEvents_type", description="The event's name.", examples=["DeadLetter"]
    )
    subject: str = Field(
        alias="cloudEvents_subject",
        description="The dead letter's id.",
        examples=[DEAD_LETTER_ID],
    )

    reason: FailureReason = Field(alias="x-failure-reason")
    details: str = Field(
        alias="x-failure-details",
        max_length=1000,
        description="Names the field and the rule, never the value. At most 1,000 characters.",
        examples=["totalAmount: Input should be greater than 0"],
    )
    dead_letter_id: str = Field(
        alias="x-dead-letter-id",
        description=(
            "The dead letter's id, as in the property `message_id`. By this it is recognised when "
            "it is moved back into the incoming queue. After a comma each, the ids of other "
            "installations that it went through come first."
        ),
        examples=[DEAD_LETTER_ID],
    )
    original_queue: str = Field(
        alias="x-original-queue",
        description="The queue that the message was taken from.",
        examples=["order_created_queue"],
    )
    received_at: datetime = Field(
        alias="x-received-at",
        description="When it was taken: UTC, RFC 3339, up to microseconds.",
        examples=["2026-01-31T12:00:00.000000+00:00"],
    )
    original_message_id: str | None = Field(
        None,
        alias="x-original-message-id",
        description="The property `message_id` of the original message, where it had one.",
        examples=["7f9c2ba4-0001"],
    )
    original_type: str | None = Field(
        None,
        alias="x-original-type",
        description="The property `type` of the original message, where it had one.",
        examples=["OrderCreated"],
    )
    original_content_type: str | None = Field(
        None,
        alias="x-original-content-type",
        description="The property `content_type` of the original message, where it had one.",
        examples=["application/json"],
    )
    original_content_encoding: str | None = Field(
        None,
        alias="x-original-content-encoding",
        description="The property `content_encoding` of the original message, where it had one.",
        examples=["gzip"],
    )
    original_headers: str | None = Field(
        None,
        alias="x-original-headers",
        description="Stands for the original headers where they do not fit into one frame.",
        examples=["kept in the database only: too large or not encodable"],
    )
