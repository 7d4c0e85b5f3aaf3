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

from service.rabbitmq.field_table import BROKER_HEADERS, ROUTING_HEADERS, Fields, write_table
from service.rabbitmq.origin import (
    CLOUD_EVENTS,
    DEAD_LETTER,
    ORIGINAL,
    ORIGINAL_CONTENT_TYPE,
    ORIGINAL_ENCODING,
    ORIGINAL_HEADERS,
    ORIGINAL_TYPE,
    content_type,
    dead_letter_ids,
)

# A statement must fit into the server's max_allowed_packet: 16 MiB where it is smallest (MariaDB),
# and a byte takes two in a statement (db.engine). A relay holds a whole batch of such rows in
# memory.
MAX_STORED_BYTES = 1024 * 1024

# Names, numbers and the texts of the contract's fields, of which none is longer than 255 letters.
REST_OF_STATEMENT_BYTES = 8 * 1024

# All headers of a message share one frame (128 KiB at most by default) with its other properties.
MAX_HEADER_BYTES = 96 * 1024
# What a body is read by, kept where other headers are not.
_OF_THE_BODY = (ORIGINAL_ENCODING, ORIGINAL_CONTENT_TYPE, ORIGINAL_TYPE)
HEADERS_TOO_LARGE = "kept in the database only: too large"
# As JSON, escaped for a statement, a byte of headers takes up to eight there: `\\u0001`.
HEADER_WEIGHT = 4
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
    delivery_tag: int | None
    channel: Any


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it came, with what tells a redelivery from a second, identical message."""

    raw: RawMessage
    queue: str
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    _headers: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

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

    @property
    def bytes_to_store(self) -> int:
        """What it adds to a statement at most, by half: a byte of a body takes two there."""
        body = len(self.body) if self.storable else 0
        return body + HEADER_WEIGHT * getattr(self.raw.headers, "wire_bytes", 0)

    @property
    def statement_bytes(self) -> int:
        """How large a statement that stores it may become: twice the above, and the rest of it."""
        return 2 * self.bytes_to_store + REST_OF_STATEMENT_BYTES

    def digest(self) -> bytes:
        """SHA-256 of the body and the sender's properties: 32 bytes, the same when redelivered."""
        described = json.dumps([self.properties(), self.headers()], sort_keys=True)
        hashed = hashlib.sha256(described.encode() + b"\x00")
        hashed.update(self.body)
        return hashed.digest()

    def properties(self) -> dict[str, Any]:
        """The sender's AMQP properties as JSON, those that were set."""
        found = {name: getattr(self.raw, name, None) for name in _PROPERTIES}
        return {name: to_json(value) for name, value in found.items() if value is not None}

    def headers(self) -> dict[str, Any]:
        """The sender's headers as JSON, without what the broker added."""
        if not self._headers:
            sent = self.raw.headers.items()
            self._headers.update(
                (key, to_json(value)) for key, value in sent if key not in BROKER_HEADERS
            )
        return self._headers

    def headers_to_publish(self) -> dict[str, Any]:
        """The sender's headers as JSON, fit to be published by us: none that routes, and no more
        than fit into one frame."""
        came_back = bool(dead_letter_ids(self.raw))
        sent = {
            _name_to_publish(key): value
            for key, value in self.headers().items()
            if not (came_back and key.startswith(CLOUD_EVENTS))
        }
        if message_id := self.raw.message_id:
            sent["x-original-message-id"] = message_id
        if encoding := self.raw.content_encoding:
            sent[ORIGINAL_ENCODING] = encoding
        if (said := content_type(self.raw)) is not None:
            sent[ORIGINAL_CONTENT_TYPE] = said
        if (kind := getattr(self.raw, "type", None)) and not (came_back and kind == DEAD_LETTER):
            sent[ORIGINAL_TYPE] = kind
        headers, size = sent, _encoded_size(sent)
        if not size:
            sizes = {key: _encoded_size({key: value}) for key, value in sent.items()}
            headers, size = {key: sent[key] for key in sent if sizes[key]}, sum(sizes.values())
            headers[ORIGINAL_HEADERS] = "some kept in the database only: not encodable"
        if size > MAX_HEADER_BYTES:
            kept = {name: sent[name] for name in _OF_THE_BODY if name in sent}
            return {**kept, ORIGINAL_HEADERS: HEADERS_TOO_LARGE}
        return headers


def _name_to_publish(name: str) -> str:
    # With a `$` in front a name would be read as a type by `from_json`.
    ours = name.lower() in ROUTING_HEADERS or name[:1] == "$" or name.startswith(CLOUD_EVENTS)
    return f"{ORIGINAL}{name}" if ours else name


def _encoded_size(headers: dict[str, Any]) -> int:
    """Bytes of headers in a frame; 0 where one of them cannot be encoded."""
    try:
        fields = {name: from_json(value) for name, value in headers.items()}
        return len(write_table(fields)) if _names_fit(fields) else 0
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
        case Fields():
            return {"$fields": base64.b64encode(value).decode("ascii")}
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
        case {"$fields": text}:
            return Fields(base64.b64decode(text))
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
