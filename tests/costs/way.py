"""The way of one message through this process, without the servers: all that its bytes cause.

From the frame of its properties to the statements that would store what comes of it, by the
service's own functions, in its own order.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aio_pika.message import IncomingMessage
from aiormq.abc import DeliveredMessage
from pamqp import commands
from pamqp.header import ContentHeader
from pydantic import BaseModel, ConfigDict, ValidationError

from db.engine import _Connection, _json
from order_contracts import OrderCreated
from service.consumer.codec import decode
from service.consumer.subscriber import readable_order_id, refusal_of
from service.domain.errors import Refusal
from service.inbound import Candidate, Refused
from service.outbox.envelope import Events, Row, dead_letter_row, new_id, order_row
from service.rabbitmq.delivery import Delivery
from service.rabbitmq.properties import tolerate_unreadable_properties
from service.rabbitmq.topology import Topology
from tests.harness import settings_for

HEADERS = 1 << 13  # the flag of the property
EVENTS = Events(Topology.of(settings_for()))

tolerate_unreadable_properties()


class Arguments(BaseModel):
    """What FastStream makes of the handler's one parameter."""

    model_config = ConfigDict(hide_input_in_errors=True)
    order: OrderCreated


@dataclass(frozen=True, slots=True)
class Message:
    """A body, and the fields of its headers as they are in the frame."""

    body: bytes
    headers: bytes = b""

    @property
    def size(self) -> int:
        return len(self.body) + len(self.headers)


def pass_through(message: Message, link: _Connection) -> int:
    """Read, decide and write down the message; returns the letters of its statements' values."""
    received: Any = _received(message)
    delivery = Delivery(received, "order_created_queue")
    subject = _read(delivery)
    rows = _order_rows(subject) if isinstance(subject, Candidate) else _refused_rows(subject)
    return sum(_written(value, link) for row in rows for value in row.values())


def link() -> _Connection:
    """Not connected: it writes literals."""
    connection = _Connection()
    connection.server_status = 0
    return connection


def _received(message: Message) -> IncomingMessage:
    frame = struct.pack(">HHQ", 60, 0, len(message.body))
    if message.headers:
        frame += struct.pack(">HI", HEADERS, len(message.headers)) + message.headers
    else:
        frame += struct.pack(">H", 0)
    header = ContentHeader()
    header.unmarshal(frame)
    deliver = commands.Basic.Deliver(consumer_tag="c", delivery_tag=1)
    channel: Any = None
    return IncomingMessage(DeliveredMessage(deliver, header, message.body, channel))


def _read(delivery: Delivery) -> Candidate | Refused:
    try:
        value = decode(delivery.body, delivery.raw.content_encoding)
        return Candidate.of(Arguments.model_validate({"order": value}).order, delivery)
    except ValidationError as error:
        return Refused(refusal_of(error), delivery, readable_order_id(value))
    except Refusal as refusal:
        return Refused(refusal.without_origin(), delivery)


def _order_rows(candidate: Candidate) -> list[Row]:
    now = datetime.now(UTC)
    return [order_row(candidate, now), EVENTS.processed(candidate, new_id(), now)]


def _refused_rows(refused: Refused) -> list[Row]:
    now, letter_id = datetime.now(UTC), new_id()
    digest = refused.delivery.digest()
    return [
        dead_letter_row(refused, letter_id, digest, 1),
        EVENTS.failed(refused, letter_id, new_id()),
        EVENTS.dead_letter(refused, letter_id, now),
    ]


def _written(value: Any, link: _Connection) -> int:
    text = _json(value) if isinstance(value, (dict, list)) else value
    return len(link.escape(text).encode())
