"""Header tables: every type of AMQP, odd names, sizes, depths, and names that mean something."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.faults.corpus import amqp
from tests.faults.corpus.case import CANARY, Case
from tests.faults.corpus.properties import both
from tests.faults.corpus.series import Series, named

# type's letter: values, each as it stands in a table
TYPES: dict[str, tuple[bytes, ...]] = {
    "t": (b"\x00", b"\x01", b"\x02", b"\xff"),
    "b": (b"\x00", b"\x7f", b"\x80", b"\xff"),
    "B": (b"\x00", b"\x80", b"\xff"),
    "s": (struct.pack(">h", -1), struct.pack(">h", -(2**15))),
    "u": (struct.pack(">H", 0), struct.pack(">H", 2**16 - 1)),
    "I": (struct.pack(">i", -1), struct.pack(">i", -(2**31)), struct.pack(">i", 2**31 - 1)),
    "i": (struct.pack(">I", 0), struct.pack(">I", 2**32 - 1)),
    "l": (struct.pack(">q", -1), struct.pack(">q", -(2**63)), struct.pack(">q", 2**63 - 1)),
    "f": tuple(struct.pack(">f", each) for each in (0.0, -0.0, 0.5, 1e-45)),
    "d": tuple(struct.pack(">d", each) for each in (0.1, -0.0, 5e-324, 1e308)),
    "D": (b"\x00" + bytes(4), b"\x02\x00\x00\x04\xd2", b"\x02\x7f\xff\xff\xff"),
    "S": tuple(
        amqp.long(each)
        for each in ("", CANARY, "\u00e9\N{GRINNING FACE}", "\x00\r\n\x1b[31m", "x" * 20_000)
    ),
    "x": (amqp.long(b""), amqp.long(CANARY), amqp.long(bytes(range(256)))),
    "T": tuple(amqp.timestamp(each) for each in (0, 2**31, 253_402_300_799)),
    "V": (b"",),
    "A": (
        amqp.array(),
        amqp.array(b"S" + amqp.long(CANARY), b"V", b"t\x01"),
        amqp.array(b"A" + amqp.array(b"A" + amqp.array())),
        amqp.array(b"F" + amqp.table(amqp.text("a", CANARY))),
    ),
    "F": (
        amqp.table(),
        amqp.table(amqp.text("a", CANARY), amqp.field("", "V")),
        amqp.table(amqp.field("a", "F", amqp.table(amqp.field("b", "F", amqp.table())))),
    ),
}
MEANT_FOR_US = (
    *("x-failure-reason", "x-failure-details", "x-original-queue", "x-received-at"),
    *("x-original-headers", "x-original-message-id", "x-original-content-encoding"),
)
MEANT_FOR_OTHERS = (
    *("cloudEvents:id", "cloudEvents_time", "cloudEvents:specversion", "ce-id", "content-type"),
    *("x-match", "x-deduplication-header", "x-retry", "x-exception", "x-stream-filter-value"),
    *("traceresponse", "baggage", "b3", "correlation_id", "message_id", "redelivered", "headers"),
    *("$type", "$table", "$bytes", "$int", "$decimal", "$", "__proto__", "", " ", "a.b", "a\x00b"),
)
RENAMED = ("$", "cloudEvents")
BROKERS = ("x-death", "x-delivery-count", "x-acquired-count", "x-first-death-reason")
TRACES = (
    *("", CANARY, "00-" + "0" * 32 + "-" + "0" * 16 + "-00", "ff-" + "a" * 32 + "-" + "b" * 16),
    *("00-" + "A" * 32 + "-" + "B" * 16 + "-01", "00-" + "a" * 32 + "-" + "b" * 16 + "-01\r\nA: b"),
    *("00-" + "a" * 32 + "-" + "b" * 16 + "-01-" + CANARY, "x" * 5000),
)


def _table(*fields: bytes) -> dict[str, bytes]:
    return {"headers": amqp.table(*fields)}


@named("headers of every type")
def types(series: Series) -> Iterator[Case]:
    for kind, values in TYPES.items():
        for number, value in enumerate(values, 1):
            fields = (amqp.text("x-tenant", CANARY), amqp.field("x-value", kind, value))
            yield from both(series, f"type {kind}, value {number}", _table(*fields))
    everything = [
        amqp.field(f"{kind}{number}", kind, value)
        for kind, values in TYPES.items()
        for number, value in enumerate(values)
    ]
    yield from both(series, "all at once", _table(*everything))
    yield from both(series, "no header", _table())


@named("names of headers")
def names(series: Series) -> Iterator[Case]:
    for name in MEANT_FOR_OTHERS:
        fields = _table(amqp.text(name, CANARY))
        yield from both(series, f"{name!a}", fields, headers_kept=not name.startswith(RENAMED))
    for length in (100, 127, 128):
        yield from both(series, f"{length} bytes", _table(amqp.text("n" * length, CANARY)))
    for length in (129, 200, 255):
        fields = _table(amqp.text("n" * length, CANARY))
        yield from both(series, f"{length} bytes", fields, headers_kept=False)
    fields = _table(amqp.text("\u00e9" * 127, CANARY))
    yield from both(series, "254 bytes that are 127 characters", fields, headers_kept=False)
    # Brokers keep the first or the last.
    fields = _table(amqp.text("a", "1"), amqp.text("a", CANARY))
    yield from both(series, "the same name twice", fields, headers_kept=False)


@named("headers in our name")
def ours(series: Series) -> Iterator[Case]:
    """They say something of a dead letter that only we may say: ours win."""
    for name in MEANT_FOR_US:
        for kind, value in (("S", amqp.long(CANARY)), ("V", b""), ("F", amqp.table())):
            fields = _table(amqp.field(name, kind, value))
            yield from both(series, f"{name}, type {kind}", fields, headers_kept=False)


@named("headers in the broker's name")
def brokers(series: Series) -> Iterator[Case]:
    for name in BROKERS:
        for kind, value in (("S", amqp.long(CANARY)), ("l", struct.pack(">q", 7356412908))):
            fields = _table(amqp.field(name, kind, value))
            yield from both(series, f"{name}, type {kind}", fields, headers_kept=False)


@named("headers that route")
def routing(series: Series) -> Iterator[Case]:
    nowhere = amqp.array(b"S" + amqp.long(f"nowhere-{CANARY}"))
    for name in ("CC", "BCC"):
        fields = _table(amqp.field(name, "A", nowhere))
        yield from both(series, f"{name}, to nobody", fields, headers_kept=False)
        yield from both(
            series,
            f"{name}, empty",
            _table(amqp.field(name, "A", amqp.array())),
            headers_kept=False,
        )
    for name in ("cc", "Bcc", "bcc", "Cc"):
        fields = _table(amqp.text(name, "order_processed_queue"))
        yield from both(series, f"{name}, which the broker ignores", fields, headers_kept=False)


@named("traces")
def traces(series: Series) -> Iterator[Case]:
    for text in TRACES:
        yield from both(
            series, f"traceparent {text[:20]!a}", _table(amqp.text("traceparent", text))
        )
    good = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    for state in ("a=b", "", "a=" + "b" * 600, "a=b\r\nc: d", "\u00e9", CANARY):
        fields = _table(amqp.text("traceparent", good), amqp.text("tracestate", state))
        yield from both(series, f"tracestate {state[:20]!a}", fields)
    for kind, value in (("V", b""), ("t", b"\x01"), ("x", amqp.long(good)), ("F", amqp.table())):
        fields = _table(amqp.field("traceparent", kind, value))
        yield from both(series, f"traceparent of type {kind}", fields)


@named("sizes of headers")
def sizes(series: Series) -> Iterator[Case]:
    for size in (1000, 30_000, 60_000, 90_000):
        yield from both(series, f"{size} bytes", _table(amqp.text("x-large", "x" * size)))
    for size in (100_000, 102_400, 120_000):
        fields = _table(amqp.text("x-large", CANARY + "x" * size))
        yield from both(series, f"{size} bytes", fields, headers_kept=False)
    many = [amqp.text(f"x-{CANARY}-{number}", "") for number in range(2000)]
    yield from both(series, "2,000 of them", _table(*many))
    many = [amqp.field(f"{CANARY}{number}", "V") for number in range(5000)]
    yield from both(series, "5,000 of them", _table(*many), headers_kept=False)


def _within(depth: int, kind: str) -> bytes:
    """A table or an array of so many levels, and the canary at the bottom."""
    value, held = amqp.long(CANARY), "S"
    for _ in range(depth):
        inner = amqp.field(CANARY, held, value) if kind == "F" else held.encode() + value
        value, held = amqp.long(inner), kind
    return value


@named("depths of headers")
def depths(series: Series) -> Iterator[Case]:
    for kind in "FA":
        for depth in (1, 5, 11):
            fields = _table(amqp.field("x-deep", kind, _within(depth, kind)))
            yield from both(series, f"{depth} of type {kind}", fields)
        for depth in (13, 31, 33, 64, 101, 200):
            fields = _table(amqp.field("x-deep", kind, _within(depth, kind)))
            yield from both(series, f"{depth} of type {kind}", fields, headers_kept=False)
