"""Reading the headers of a message at a cost that their size bounds.

pamqp copies what is left of a table for each of its fields: 128 KiB of short ones take it a second.
Here each byte is read once. What stands in a single field is still pamqp's to read.

A value costs far more than its byte or two in the frame, so only so many are read. Headers of more
stay the bytes that they were. They are written as these fields again where any client can read
them, else as one header that holds the bytes.
"""

from __future__ import annotations

import struct
from decimal import Decimal
from typing import Any

from pamqp import decode, encode

# Headers the broker adds to a delivery; a redelivery has other values in them.
BROKER_HEADERS = frozenset(
    {"x-delivery-count", "x-acquired-count", "x-death", "x-first-death-exchange"}
    | {"x-first-death-queue", "x-first-death-reason", "x-last-death-exchange"}
    | {"x-last-death-queue", "x-last-death-reason"}
)
# Headers by which a sender makes the broker route a message to queues of the sender's choice: a
# copy that we publish carries them under another name.
ROUTING_HEADERS = frozenset({"cc", "bcc"})
# Tables and arrays count too, and so does all that is in them.
MAX_VALUES = 64
UNDECODED = "x-undecoded-headers"

_LENGTH = struct.Struct(">I")
_DECIMAL_FIELD = struct.Struct(">BI")
_TABLE, _ARRAY, _DECIMAL = b"F", b"A", b"D"
_COUNTED_KINDS = b"SxFA"
_SIZES = {
    **dict.fromkeys(b"V\x00", 0),
    **dict.fromkeys(b"tbB", 1),
    **dict.fromkeys(b"su", 2),
    **dict.fromkeys(b"Iif", 4),
    **dict.fromkeys(b"D", 5),
    **dict.fromkeys(b"lLdT", 8),
}
# What any client reads, whatever its bytes: nothing nested, and no time beyond the calendar.
_PLAIN_KINDS = b"tbBsuIilLfdDSVx"
_ROUTING_NAMES = frozenset(name.encode() for name in ROUTING_HEADERS)
_BROKERS_NAMES = frozenset(name.encode() for name in BROKER_HEADERS)


class TooManyError(Exception):
    """More values than are read."""


class Fields(bytes):
    """Fields of a table as they are in a frame, plain ones: only reading a table makes them."""

    __slots__ = ()


class Table(dict[str, Any]):
    """The headers of a message, and how many bytes they were in the frame."""

    wire_bytes: int = 0

    @classmethod
    def of(cls, fields: dict[str, Any], wire_bytes: int) -> Table:
        table = cls(fields)
        table.wire_bytes = wire_bytes
        return table


def read_table(data: bytes) -> Table:
    """The field table that `data` begins with.

    Raises:
        ValueError, LookupError, OverflowError, ArithmeticError, RecursionError, struct.error: it
            cannot be read.
    """
    try:
        end, fields = _Reader(data).fields(0)
    except TooManyError:
        end = _bounds(data, 0)[1]
        fields = {UNDECODED: _sent(data)}
    return Table.of(fields, end)


def write_table(fields: dict[str, Any]) -> bytes:
    """The field table in a frame; what was not decoded stands in it as it came.

    Raises:
        TypeError, ValueError, ArithmeticError, struct.error: it cannot be encoded.
    """
    raw = fields.get(UNDECODED)
    if not isinstance(raw, Fields):
        return encode.field_table(fields)
    rest = {name: value for name, value in fields.items() if name != UNDECODED}
    # Of two fields of one name the later counts: ours.
    content = raw + encode.field_table(rest)[_LENGTH.size :]
    return _LENGTH.pack(len(content)) + content


class _Reader:
    """Reads the values of one table, so many and no more."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MAX_VALUES

    def fields(self, at: int) -> tuple[int, dict[str, Any]]:
        at, end = _bounds(self._data, at)
        fields: dict[str, Any] = {}
        while at < end:
            name, at = _name(self._data, at, end)
            at, fields[name.decode()] = self._value(at)
        return end, fields

    def _values(self, at: int) -> tuple[int, list[Any]]:
        at, end = _bounds(self._data, at)
        values: list[Any] = []
        while at < end:
            at, value = self._value(at)
            values.append(value)
        return at, values

    def _value(self, at: int) -> tuple[int, Any]:
        if not self._left:
            raise TooManyError
        self._left -= 1
        kind, at = self._data[at : at + 1], at + 1
        if not kind:
            return at - 1, None
        if kind == _TABLE:
            return self.fields(at)
        if kind == _ARRAY:
            return self._values(at)
        if kind == _DECIMAL:
            scale, whole = _DECIMAL_FIELD.unpack_from(self._data, at)
            return at + _DECIMAL_FIELD.size, Decimal(whole).scaleb(-scale)  # pamqp's takes a power
        read = decode.TABLE_MAPPING[kind]
        consumed, value = read(self._data[at : at + _size(self._data, kind[0], at)])
        return at + consumed, value


def _sent(data: bytes) -> Fields | bytearray:
    """The fields that the broker has not added, as they are in the frame.

    Raises:
        ValueError, KeyError, struct.error: they cannot be told apart.
    """
    at, end = _bounds(data, 0)
    found, plain = list[bytes](), True
    while at < end:
        begin = at
        name, at = _name(data, at, end)
        name.decode()
        if at == end:
            raise ValueError("a name without a value")
        kind = data[at]
        at += 1 + _size(data, kind, at + 1)
        if at > end:
            raise ValueError("a value is longer than its table")
        if name in _BROKERS_NAMES:
            continue
        plain = plain and kind in _PLAIN_KINDS and name.lower() not in _ROUTING_NAMES
        found.append(data[begin:at])
    content = b"".join(found)
    return Fields(content) if plain else bytearray(content)


def _name(data: bytes, at: int, end: int) -> tuple[bytes, int]:
    begin = at + 1
    at = begin + data[at]
    if at > end:
        raise ValueError("a name is longer than its table")
    return data[begin:at], at


def _bounds(data: bytes, at: int) -> tuple[int, int]:
    (length,) = _LENGTH.unpack_from(data, at)
    end = at + 4 + length
    if end > len(data):
        raise ValueError("a table or an array is longer than its frame")
    return at + 4, end


def _size(data: bytes, kind: int, at: int) -> int:
    """How many bytes the value at `at` has."""
    if kind in _COUNTED_KINDS:
        return 4 + int(_LENGTH.unpack_from(data, at)[0])
    return _SIZES[kind]
