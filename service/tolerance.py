"""Reading AMQP properties that the client library cannot.

A property that pamqp fails to decode (a timestamp beyond the calendar, a string that is not UTF-8,
an unknown field type in a table) makes aiormq drop the connection. The message comes back, and so
on for ever, at the cost of every other message in flight. Here such a value becomes one that can
be read, and the message takes its ordinary course.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from pamqp import decode

MAX_SHORT_STRING = 255
UNREADABLE = "x-unreadable-headers"

Decoder = Callable[[bytes], tuple[int, Any]]


def tolerate_unreadable_properties() -> None:
    """Register tolerant decoders in pamqp's tables of decoders, for this process; idempotent."""
    decode.METHODS["shortstr"] = _short_string
    decode.METHODS["timestamp"] = decode.TABLE_MAPPING[b"T"] = _timestamp
    decode.METHODS["table"] = _table


def _short_string(value: bytes) -> tuple[int, str]:
    length = value[0]
    # What is not UTF-8 stays readable as \xNN, and cut off where that would not fit again.
    text = value[1 : length + 1].decode("utf-8", "backslashreplace")
    return length + 1, text.encode()[:MAX_SHORT_STRING].decode("utf-8", "ignore")


def _timestamp(value: bytes) -> tuple[int, Any]:
    try:
        return decode.timestamp(value)
    except (ValueError, OverflowError, OSError):
        return 8, None


def _table(value: bytes) -> tuple[int, Any]:
    """The headers of a message; where they cannot be read, a table that says so."""
    try:
        return decode.field_table(value)
    except (ValueError, OverflowError, LookupError, RecursionError, ArithmeticError):
        (length,) = struct.unpack(">I", value[:4])
        return length + 4, {UNREADABLE: True}
