"""Reading and writing AMQP properties that the client library cannot.

A property that pamqp fails to decode (a string that is not UTF-8, an unknown field type in a table)
makes aiormq drop the connection, and one that aio_pika refuses (a delivery mode of 3) makes it drop
the message before anybody sees it, unacknowledged. The message comes back, and so on for ever, at
the cost of every other message in flight. Here such a value becomes one that can be read, and the
message takes its ordinary course.

What a producer wrote is passed on as it was: a double, which pamqp would write with half of its
bits, and a time beyond 2106, which it would read as milliseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from pamqp import decode, encode
from pamqp.commands import Basic

from service.rabbitmq.field_table import Table, read_table, write_table

MAX_SHORT_STRING = 255
UNREADABLE = "x-unreadable-headers"
TRANSIENT, PERSISTENT = 1, 2

Decoder = Callable[[bytes], tuple[int, Any]]

_encode_table_value = encode.encode_table_value


def tolerate_unreadable_properties() -> None:
    """Register our ways of reading and writing with pamqp, for this process; idempotent."""
    decode.METHODS["shortstr"] = _short_string
    decode.METHODS["timestamp"] = decode.TABLE_MAPPING[b"T"] = _timestamp
    decode.METHODS["table"] = _table
    # A delivery mode is an octet, as a priority is; with a name of its own it can be told apart.
    Basic.Properties._delivery_mode = "delivery_mode"  # noqa: SLF001 - pamqp's table of types
    decode.METHODS["delivery_mode"] = _delivery_mode
    encode.METHODS["delivery_mode"] = encode.octet
    encode.METHODS["table"] = write_table
    encode.encode_table_value = _write_value


def _short_string(value: bytes) -> tuple[int, str]:
    length = value[0]
    # What is not UTF-8 stays readable as \xNN, and cut off where that would not fit again.
    text = value[1 : length + 1].decode("utf-8", "backslashreplace")
    return length + 1, text.encode()[:MAX_SHORT_STRING].decode("utf-8", "ignore")


def _timestamp(value: bytes) -> tuple[int, datetime | None]:
    (seconds,) = struct.unpack(">Q", value[:8])
    try:
        return 8, datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return 8, None


def _delivery_mode(value: bytes) -> tuple[int, int]:
    return 1, value[0] if value[0] in {TRANSIENT, PERSISTENT} else TRANSIENT


def _table(value: bytes) -> tuple[int, Any]:
    """The headers of a message; where they cannot be read, a table that says so."""
    try:
        table = read_table(value)
    except (
        *(ValueError, OverflowError, LookupError),
        *(RecursionError, ArithmeticError, struct.error),
    ):
        (length,) = struct.unpack(">I", value[:4])
        table = Table.of({UNREADABLE: True}, length + 4)
    return table.wire_bytes, table


def _write_value(value: Any) -> bytes:
    return b"d" + encode.double(value) if type(value) is float else _encode_table_value(value)
