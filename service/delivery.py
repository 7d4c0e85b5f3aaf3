"""One delivery of a message as the broker handed it over: body, properties, and which it is."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Protocol

import pamqp.encode

# A statement must fit into the server's max_allowed_packet: 16 MiB where it is smallest (MariaDB),
# and a byte may take two in a statement. A relay holds a whole batch of such rows in memory.
MAX_STORED_BYTES = 1024 * 1024

# Headers the broker adds to a delivery; a redelivery has other values in them.
BROKER_HEADERS = frozenset(
    {"x-delivery-count", "x-acquired-count", "x-death", "x-first-death-exchange"}
    | {"x-first-death-queue", "x-first-death-reason", "x-last-death-exchange"}
    | {"x-last-death-queue", "x-last-death-reason"}
)
# Headers by which a sender makes the broker route a message to queues of the sender's choice: a
# copy that we publish carries them under another name.
ROUTING_HEADERS = frozenset({"cc", "bcc"})
# All headers of a message share one frame (128 KiB at most by default) with its other properties.
MAX_HEADER_BYTES = 96 * 1024
# pamqp cuts longer names off, and writes them into the log.
MAX_HEADER_NAME_BYTES = 128
# A JSON column takes 32 levels on MariaDB, 100 on MySQL; one level here may become two there.
MAX_HEADER_DEPTH = 12

# https://www.w3.org/TR/trace-context/#traceparent-header
MAX_TRACESTATE = 512
_TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII
)
_PROPERTIES = (
    *("content_type", "content_encoding", "delivery_mode", "priority", "correlation_id"),
    *("reply_to", "expiration", "message_id", "timestamp", "type", "user_id", "app_id"),
)


class RawMessage(Protocol):
    """The part of an AMQP message that is read here."""

    body: bytes
    headers: Any
    content_type: str | None
    content_encoding: str | None
    correlation_id: str | None
    message_id: str | None
    redelivered: bool | None
    channel: Any


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it came, with what tells a redelivery from a second, identical message."""

    raw: RawMessage
    queue: str
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def body(self) -> bytes:
        return self.raw.body

    @property
    def first(self) -> bool:
        """Whether the broker said that this message was delivered to nobody before."""
        return not self.raw.redelivered

    @property
    def correlation_id(self) -> str | None:
        return self.raw.correlation_id or self.raw.message_id

    @property
    def trace(self) -> dict[str, str]:
        """The W3C trace context headers the producer sent, where they are well-formed."""
        parent = self.raw.headers.get("traceparent")
        if not isinstance(parent, str) or not _TRACEPARENT.fullmatch(parent):
            return {}
        state = self.raw.headers.get("tracestate")
        usable = isinstance(state, str) and state.isascii() and len(state) <= MAX_TRACESTATE
        return {"traceparent": parent} | ({"tracestate": state} if usable else {})

    @property
    def storable(self) -> bool:
        """Whether the body fits into a row; what is larger is passed on without being stored."""
        return len(self.body) <= MAX_STORED_BYTES

    def digest(self) -> bytes:
        """SHA-256 of the body and the sender's properties: 32 bytes, the same when redelivered."""
        described = json.dumps([self.properties(), self.headers()], sort_keys=True)
        return hashlib.sha256(described.encode() + b"\x00" + self.body).digest()

    def properties(self) -> dict[str, Any]:
        """The sender's AMQP properties as JSON, those that were set."""
        found = {name: getattr(self.raw, name, None) for name in _PROPERTIES}
        return {name: to_json(value) for name, value in found.items() if value is not None}

    def headers(self) -> dict[str, Any]:
        """The sender's headers as JSON, without what the broker added."""
        sent = self.raw.headers.items()
        return {key: to_json(value) for key, value in sent if key not in BROKER_HEADERS}

    def headers_to_publish(self) -> dict[str, Any]:
        """The sender's headers as JSON, fit to be published by us: none that routes, and no more
        than fit into one frame."""
        sent = {_name_to_publish(key): value for key, value in self.headers().items()}
        if message_id := self.raw.message_id:
            sent["x-original-message-id"] = message_id
        if encoding := self.raw.content_encoding:
            sent["x-original-content-encoding"] = encoding
        headers = {key: value for key, value in sent.items() if _encoded_size(key, value)}
        if sum(_encoded_size(key, value) for key, value in headers.items()) > MAX_HEADER_BYTES:
            return {"x-original-headers": "kept in the database only: too large"}
        if len(headers) < len(sent):
            headers["x-original-headers"] = "some kept in the database only: not encodable"
        return headers


def _name_to_publish(name: str) -> str:
    # With a `$` in front a name would be read as a type by `from_json`.
    return f"x-original-{name}" if name.lower() in ROUTING_HEADERS or name[:1] == "$" else name


def _encoded_size(name: str, value: Any) -> int:
    """Bytes of a header in a frame; 0 where it cannot be encoded."""
    try:
        field = {name: from_json(value)}
        return len(pamqp.encode.field_table(field)) if _names_fit(field) else 0
    except (TypeError, ValueError, ArithmeticError, struct.error):
        return 0


def _names_fit(value: Any) -> bool:
    if isinstance(value, list):
        return all(_names_fit(each) for each in value)
    return not isinstance(value, dict) or all(
        len(name.encode()) <= MAX_HEADER_NAME_BYTES and _names_fit(each)
        for name, each in value.items()
    )


def to_json(value: Any, depth: int = 0) -> Any:
    """An AMQP field value as JSON. What JSON has no type for becomes `{"$type": text}`.

    A table with a `$` in front of a name becomes `{"$table": …}`, so that no sender can write such
    a type. What is nested deeper than 12 levels is left out: no JSON column would take it.
    """
    match value:
        case None | bool() | str():
            return value
        case int():
            return value if -(2**63) <= value < 2**63 else {"$int": str(value)}
        case float():
            return {"$float": value.hex()}
        case Decimal():
            return {"$decimal": str(value)}
        case bytes() | bytearray():
            return {"$bytes": base64.b64encode(value).decode("ascii")}
        case datetime():
            return {"$timestamp": value.astimezone(UTC).isoformat()}
        case Mapping() | list() | tuple() if depth >= MAX_HEADER_DEPTH:
            return {"$text": "nested too deep"}
        case Mapping():
            table = {str(key): to_json(each, depth + 1) for key, each in value.items()}
            return {"$table": table} if any(key[:1] == "$" for key in table) else table
        case list() | tuple():
            return [to_json(each, depth + 1) for each in value]
        case _:
            return {"$text": str(type(value).__name__)}


def from_json(value: Any) -> Any:
    """The AMQP field value that `to_json` described."""
    match value:
        case str():
            return value
        case {"$int": text}:
            return int(text)
        case {"$float": text}:
            return float.fromhex(text)
        case {"$decimal": text}:
            return Decimal(text)
        case {"$bytes": text}:
            return bytearray(base64.b64decode(text))  # pamqp encodes no bytes
        case {"$timestamp": text}:
            return datetime.fromisoformat(text)
        case {"$table": table}:
            return {key: from_json(each) for key, each in table.items()}
        case dict():
            return {key: from_json(each) for key, each in value.items()}
        case list():
            return [from_json(each) for each in value]
        case _:
            return value
