"""Messages that a few numbers and fragments describe, so that they can be changed and tried."""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, replace
from typing import Any

from order_contracts import MAX_BODY_BYTES
from tests.costs.way import Message

KIB = 1024
MOST_HEADERS = 120 * KIB  # of a frame of 128 KiB
ORDER = b'{"orderId":"a","userId":"u","totalAmount":1,"idempotencyKey":"a","items":'
LINE = b'{"sku":"85123A","quantity":6,"unitPrice":"2.55"}'
SIZES = (MAX_BODY_BYTES, MAX_BODY_BYTES, MAX_BODY_BYTES // 8, 2 * KIB, 300, 1024 * KIB)
FRAMES = (
    (b"[", b"]"),
    (ORDER + b"[", b"]}"),
    (ORDER + b'[],"x":[', b"]}"),
    (ORDER + b"[" + LINE + b',{"x":[', b"]}]}"),
    (b'["\\u0041",', b"]"),
    (b'["\xf0\x9f\x93\xa6",', b"]"),
    (b"{", b"}"),
    (b'"', b'"'),
    (b"", b""),
)
FRAGMENTS = (
    *(b"[]", b"{}", b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"0", b"1", b"-1", b" "),
    *(b"0.1", b"1e1", b"1E-9", b"9" * 50, b"9" * 4300, b"9" * 4301, b"0." + b"9" * 4000),
    *(b"1e999999", b"1e99999999999999999999", b"null", b"true", b"NaN", b'"a"', b'""', b'"a":1'),
    *(b'"%d":1', b'"%d":{}', b'"a":[]', b"\\u0041", b"\\ud83d\\udce6", b"\\ud800", b"\\n"),
    *(b"\xff", b"\x00", b"'", b"\xc3\xa9", b"\xf0\x9f\x93\xa6", b"a" * 60, LINE),
    *(b'{"sku":"a","quantity":1,"unitPrice":1}', b'{"sku":"\'","quantity":1,"unitPrice":1e9}'),
    *(b'{"sku":"a","quantity":1,"unitPrice":0.1234567890123456789}', b'{"sku":1}'),
    *(
        b"[" * 30 + b"]" * 30,
        b'{"":' * 30 + b"0" + b"}" * 30,
        b'{"sku":"a","quantity":' + b"9" * 90,
    ),
)
TEXT = {b"b": b"\x01", b"c": b"\\", b"d": b"'", b"e": b'"', b"f": b"\xff", b"g": b"\xc3\xa9"}
HEADER_VALUES = (
    *(b"t\x01", b"b\x01", b"V", b"x\0\0\0\0", b"S\0\0\0\0", b"A\0\0\0\0", b"F\0\0\0\0"),
    *(b"l" + b"\x7f" * 8, b"L" + b"\xff" * 8, b"d" + b"\x3f" * 8, b"f" + b"\x3f" * 4),
    *(b"T\0\0\0\0\x60\0\0\0", b"T" + b"\xff" * 8, b"D\x05\0\0\0\x07", b"D\xff\x7f\xff\xff\xff"),
    *(b"S" + struct.pack(">I", 300) + text * (300 // len(text)) for text in TEXT.values()),
    *(
        b"x" + struct.pack(">I", 300) + b"\xff" * 300,
        b"S\0\0\0\x01a",
        b"S\0\0\0\x04\xf0\x9f\x93\xa6",
    ),
)
HEADER_NAMES = (b"%d", b"$%d", b"", b"CC", b"\xc3\xa9%d", b"a" * 120 + b"%d", b"a" * 200 + b"%d")


@dataclass(frozen=True, slots=True)
class Genes:
    """How a message is made: a frame around as many copies of a unit as there is room for."""

    size: int = MAX_BODY_BYTES
    frame: int = 0
    unit: tuple[bytes, ...] = (b"1",)
    separator: bytes = b","
    header_size: int = 0
    header_value: tuple[bytes, ...] = (b"t\x01",)
    header_name: bytes = b"%d"
    header_depth: int = 0

    def message(self) -> Message:
        return Message(self._body(), self._headers()[:MOST_HEADERS])

    def _body(self) -> bytes:
        before, after = FRAMES[self.frame]
        room = self.size - len(before) - len(after)
        return before + _repeated(b"".join(self.unit), self.separator, room) + after

    def _headers(self) -> bytes:
        fields = b""
        if self.header_size:
            fields = _fields(self.header_name, self.header_value, self.header_size)
        for _ in range(self.header_depth):
            fields = b"\x01aF" + struct.pack(">I", len(fields)) + fields
        return fields


def _repeated(unit: bytes, separator: bytes, room: int) -> bytes:
    """Copies of a unit, each with a number of its own where it says `%d`."""
    longest = len(unit.replace(b"%d", b"%06d" % 0)) + len(separator)
    count = max(room // max(longest, 1), 1)
    if b"%d" not in unit:
        return separator.join([unit] * count)
    return separator.join([unit.replace(b"%d", b"%d" % number) for number in range(count)])


def _fields(name: bytes, value: tuple[bytes, ...], room: int) -> bytes:
    """Of one name and each kind of value in turn."""
    fields, length, number = list[bytes](), 0, 0
    while length < room:
        named = name.replace(b"%d", b"%x" % number)
        fields.append(bytes([len(named)]) + named + value[number % len(value)])
        length += len(fields[-1])
        number += 1
    return b"".join(fields[:-1])


def changed(genes: Genes, rng: random.Random) -> Genes:
    """Changed in one to three places."""
    for _ in range(rng.randint(1, 3)):
        genes = replace(genes, **_one_change(genes, rng))
    return genes


def _one_change(genes: Genes, rng: random.Random) -> dict[str, Any]:
    match rng.randrange(8):
        case 0:
            return {"size": rng.choice(SIZES)}
        case 1:
            return {"frame": rng.randrange(len(FRAMES))}
        case 2:
            return {"separator": rng.choice((b",", b"", b" ", b"\n,"))}
        case 3:
            return {"header_size": rng.choice((0, 500, 2 * KIB, 96 * KIB, MOST_HEADERS - KIB))}
        case 4:
            return {"header_name": rng.choice(HEADER_NAMES)}
        case 5:
            return {"header_depth": rng.choice((0, 1, 11, 12, 50))}
        case 6:
            return {"header_value": tuple(rng.choices(HEADER_VALUES, k=rng.randint(1, 3)))}
        case _:
            return {"unit": _changed_unit(genes.unit, rng)}


def _changed_unit(unit: tuple[bytes, ...], rng: random.Random) -> tuple[bytes, ...]:
    parts, place = list(unit), rng.randint(0, len(unit))
    match rng.randrange(3):
        case 0:
            parts.insert(place, rng.choice(FRAGMENTS))
        case 1 if len(parts) > 1:
            parts.pop(place % len(parts))
        case _:
            parts[place % len(parts)] = rng.choice(FRAGMENTS)
    return tuple(parts[:6])


def known_worst() -> list[Genes]:
    """What searches have found, and what was worst before it was mended: where they begin."""
    wide: dict[str, Any] = {"size": 2 * KIB, "header_size": MOST_HEADERS - KIB}
    small: dict[str, Any] = {"size": 300, "header_size": KIB}
    return [
        Genes(frame=1, unit=(b"{}",)),
        Genes(frame=2, unit=(b"[]",)),
        Genes(unit=(b"[]",)),
        Genes(unit=(b"[" * 30 + b"]" * 30,)),
        Genes(unit=(b'{"":' * 30 + b"0" + b"}" * 30,)),
        Genes(frame=4, unit=(b"0.1",)),
        Genes(frame=4, unit=(b"[]",)),
        Genes(frame=6, unit=(b'"%d":{}',)),
        Genes(frame=6, unit=(b'"a":1',)),
        Genes(unit=(b"9" * 4300,)),
        Genes(unit=(b"0.1,", b"9" * 4301)),
        Genes(frame=1, unit=(b'{"sku":"a","quantity":1,"unitPrice":' + b"9" * 4300 + b"}",)),
        Genes(frame=7, unit=(b"\xff",), separator=b"", size=1024 * KIB),
        Genes(frame=7, unit=(b"9" * 60,), separator=b"", size=MAX_BODY_BYTES),
        Genes(frame=1, unit=(b'{"sku":"\xf0\x9f\x93\xa6","quantity":1,"unitPrice":0.1}',)),
        *(Genes(**wide, header_value=(value,)) for value in HEADER_VALUES),
        *(Genes(**wide, header_name=name) for name in HEADER_NAMES),
        *(Genes(**small, header_value=(value,)) for value in HEADER_VALUES),
        Genes(**wide, header_value=(b"T\0\0\0\0\x60\0\0\0",), header_depth=11),
        Genes(**small, header_value=(b"T\0\0\0\0\x60\0\0\0",), header_depth=11),
    ]
