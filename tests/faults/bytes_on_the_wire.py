"""MySQL packets and AMQP frames as clients and servers write them, for tests."""

from __future__ import annotations

import struct

GREETING = b"AMQP\x00\x00\x09\x01"
BASIC_PUBLISH = (60, 40)
BASIC_ACK = (60, 80)


def packet(payload: bytes, *, sequence: int = 0) -> bytes:
    return len(payload).to_bytes(3, "little") + bytes([sequence]) + payload


def query(statement: str) -> bytes:
    return packet(b"\x03" + statement.encode())


def frame(kind: int, payload: bytes, *, channel: int = 1) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + b"\xce"


def method(class_id: int, method_id: int) -> bytes:
    return frame(1, struct.pack(">HHQB", class_id, method_id, 1, 0))


BODY = frame(3, b'{"orderId": "o-1"}')
