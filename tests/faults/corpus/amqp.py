"""AMQP 0-9-1 values byte by byte: also those that no client library would write."""

from __future__ import annotations

import struct
from collections.abc import Mapping

# Bits of the property flags, in the order in which the properties follow: class basic.
_NAMES = (
    *("content_type", "content_encoding", "headers", "delivery_mode", "priority"),
    *("correlation_id", "reply_to", "expiration", "message_id", "timestamp"),
    *("type", "user_id", "app_id", "cluster_id"),
)
BITS = {name: 15 - position for position, name in enumerate(_NAMES)}


def short(value: str | bytes) -> bytes:
    """A short string: at most 255 bytes."""
    raw = value.encode() if isinstance(value, str) else value
    return bytes([len(raw)]) + raw


def long(value: str | bytes) -> bytes:
    """A long string; an array or a table has the same frame around it."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(raw)) + raw


def field(name: str | bytes, kind: str, value: bytes = b"") -> bytes:
    """A named value of a table: its type is one letter."""
    return short(name) + kind.encode() + value


def text(name: str | bytes, value: str | bytes) -> bytes:
    return field(name, "S", long(value))


def table(*fields: bytes) -> bytes:
    return long(b"".join(fields))


def array(*values: bytes) -> bytes:
    """Each value has its type's letter in front."""
    return long(b"".join(values))


def octet(value: int) -> bytes:
    return struct.pack(">B", value)


def timestamp(seconds: int) -> bytes:
    return struct.pack(">Q", seconds)


def marshal(properties: Mapping[str, bytes]) -> bytes:
    """The flags and the properties, as they stand in a content header."""
    flags = sum(1 << BITS[name] for name in properties)
    return struct.pack(">H", flags) + b"".join(
        properties[name] for name in _NAMES if name in properties
    )
