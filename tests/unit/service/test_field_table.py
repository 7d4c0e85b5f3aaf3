"""Our reading of field tables is pamqp's, but for its cost."""

from __future__ import annotations

import contextlib
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import decode, encode

from service.rabbitmq.delivery import from_json, to_json
from service.rabbitmq.field_table import MAX_VALUES, UNDECODED, Fields, read_table, write_table

NAMES = st.text("abcé$", max_size=8)
WHOLE = st.integers(0, 2**31 - 1)
SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=20)
    | st.binary(max_size=20).map(bytearray)
    | st.just(datetime(2026, 11, 25, 12, tzinfo=UTC))
    | st.builds(lambda whole, scale: Decimal(whole).scaleb(-scale), WHOLE, st.integers(0, 255))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)
FAULTS = (ValueError, OverflowError, LookupError, ArithmeticError, RecursionError, struct.error)


def values_in(value: Any) -> int:
    """Those in it, itself included: as reading counts them."""
    match value:
        case dict():
            return 1 + sum(map(values_in, value.values()))
        case list():
            return 1 + sum(map(values_in, value))
        case _:
            return 1


# What is read: of more values none is.
READABLE = st.dictionaries(NAMES, VALUES, max_size=6).filter(
    lambda fields: values_in(fields) <= MAX_VALUES
)


def outcome(read: Any, data: bytes) -> Any:
    with contextlib.suppress(*FAULTS):
        return read(data)
    return "unreadable"


def theirs(data: bytes) -> Any:
    consumed, fields = decode.field_table(data)
    return consumed, repr(fields)


def ours(data: bytes) -> Any:
    table = read_table(data)
    return table.wire_bytes, repr(dict(table))


@given(READABLE, st.binary(max_size=5))
def test_a_table_is_read_as_pamqp_reads_it(fields: dict[str, Any], rest: bytes) -> None:
    data = encode.field_table(fields) + rest
    assert ours(data) == theirs(data)


@given(
    READABLE,
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
)
def test_a_broken_table_is_read_or_refused_as_pamqp_does(
    fields: dict[str, Any], edits: list[tuple[int, int]]
) -> None:
    data = bytearray(encode.field_table(fields))
    for place, byte in edits:
        data[place % len(data)] = byte
    assert outcome(ours, bytes(data)) == outcome(theirs, bytes(data))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_as_pamqp_does(content: bytes) -> None:
    data = struct.pack(">I", len(content)) + content
    assert outcome(ours, data) == outcome(theirs, data)


@pytest.mark.parametrize("kind", [b"F", b"A"])
def test_a_table_nested_without_end_stays_bytes(kind: bytes) -> None:
    data = b""
    for _ in range(5000):
        name = b"\x01a" if kind == b"F" else b""
        data = name + kind + struct.pack(">I", len(data)) + data
    data = data if kind == b"F" else b"\x01a" + data
    assert read_table(struct.pack(">I", len(data)) + data) == {UNDECODED: Fields(data)}


def test_as_many_values_as_are_read_are_read_and_of_one_more_none() -> None:
    fields: dict[str, Any] = {f"{number}": number for number in range(MAX_VALUES)}
    assert read_table(encode.field_table(fields)) == fields
    one_more = encode.field_table(fields | {"more": [1]})
    assert read_table(one_more) == {UNDECODED: Fields(one_more[4:])}


def test_values_in_tables_and_arrays_count() -> None:
    nested = encode.field_table({"a": {"b": list(range(MAX_VALUES))}})
    assert read_table(nested) == {UNDECODED: Fields(nested[4:])}


@pytest.mark.parametrize("place", [0, 50, MAX_VALUES])
def test_what_stays_bytes_is_the_same_when_the_broker_delivers_it_again(place: int) -> None:
    sent = [(f"{number}", number) for number in range(MAX_VALUES + 1)]
    first = read_table(encode.field_table(dict(sent)))
    added: dict[str, Any] = {"x-delivery-count": 3, "x-death": [{"count": 7, "queue": "q"}]}
    again = read_table(encode.field_table({**dict(sent[:place]), **added, **dict(sent[place:])}))
    assert again == first


def wide(**more: Any) -> dict[str, Any]:
    return {f"{number}": number for number in range(MAX_VALUES)} | more


def test_what_was_not_decoded_is_written_as_it_came_and_ours_after_it() -> None:
    table = read_table(encode.field_table(wide(h="theirs")))
    kept = {name: from_json(to_json(value)) for name, value in table.items()}
    written = write_table({**kept, "h": "ours"})
    assert decode.field_table(written) == (len(written), wide(h="ours"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CC", ["a"]),
        ("Bcc", "b"),
        ("nested", {"a": 1}),
        ("array", [1]),
        ("time", datetime(2026, 11, 25, tzinfo=UTC)),
    ],
)
def test_what_routes_or_not_any_client_can_read_is_written_as_bytes(name: str, value: Any) -> None:
    sent = encode.field_table(wide(**{name: value}))
    written = write_table(dict(read_table(sent)))
    assert decode.field_table(written)[1] == {UNDECODED: bytearray(sent[4:])}


@pytest.mark.parametrize("forged", [bytearray(b"\x02CCS\0\0\0\x01q"), "text", {"$fields": "AAAA"}])
def test_a_sender_cannot_write_what_is_taken_for_undecoded(forged: Any) -> None:
    (kept,) = read_table(encode.field_table({UNDECODED: forged})).values()
    kept = from_json(to_json(kept))
    assert not isinstance(kept, Fields)
    written = write_table({UNDECODED: kept})
    assert decode.field_table(written)[1] == {UNDECODED: forged}


def test_bytes_that_cannot_be_told_apart_are_refused() -> None:
    fields = encode.field_table({f"{number}": True for number in range(MAX_VALUES + 1)})[4:]
    broken = fields + b"\x01a?"
    with pytest.raises(LookupError):
        read_table(struct.pack(">I", len(broken)) + broken)


class Counted(bytes):
    """Counts the bytes that are copied out of it."""

    copied = 0

    def __getitem__(self, part: Any) -> Any:
        found = super().__getitem__(part)
        if isinstance(part, slice):
            type(self).copied += len(found)
        return found


def test_no_byte_is_copied_more_than_a_few_times() -> None:
    Counted.copied = 0
    data = Counted(encode.field_table({f"{number:x}": True for number in range(20_000)}))
    assert list(read_table(data)) == [UNDECODED]
    assert Counted.copied < 4 * len(data)
