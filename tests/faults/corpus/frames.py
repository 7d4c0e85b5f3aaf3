"""Content headers that a client library cannot decode: the broker takes them and hands them on."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.corpus import amqp
from tests.faults.corpus.case import CANARY, OTHER_TYPE, Case
from tests.faults.corpus.properties import both
from tests.faults.corpus.series import Series, body_of, named

NO_UTF8 = (b"\xff", b"\xc3", b"\xff\xfe\x00", b"\xed\xa0\x80", b"\xc0\xaf", b"\x80" * 255, b"a\xe9")


def _headers(*fields: bytes) -> dict[str, bytes]:
    return {"headers": amqp.table(*fields)}


@named("properties that are no UTF-8")
def no_utf8(series: Series) -> Iterator[Case]:
    for name in ("content_type", "reply_to", "message_id", "app_id"):
        for raw in NO_UTF8:
            yield from both(series, f"{raw[:4]!r} in {name}", {name: amqp.short(raw)})
    for raw in NO_UTF8:
        properties, body = {"type": amqp.short(raw)}, body_of(series.order())
        yield series.dead(f"{raw[:4]!r} in type", body, OTHER_TYPE, properties=properties)
    for raw in NO_UTF8:
        properties = {"correlation_id": amqp.short(raw)}
        yield from both(series, f"{raw[:4]!r} in correlation_id", properties, correlation=None)


@named("headers that are no UTF-8")
def headers_no_utf8(series: Series) -> Iterator[Case]:
    for raw in NO_UTF8:
        what = f"{raw[:4]!r}"
        fields = _headers(amqp.text("x-value", CANARY.encode() + raw))
        yield from both(series, f"{what} as a value", fields, headers_kept=False)
        fields = _headers(amqp.text(raw, CANARY))
        yield from both(series, f"{what} as a name", fields, headers_kept=False)
        fields = _headers(amqp.field("a", "F", amqp.table(amqp.text(raw, CANARY))))
        yield from both(series, f"{what} as a name within", fields, headers_kept=False)
        fields = _headers(amqp.text("traceparent", raw))
        yield from both(series, f"{what} as a traceparent", fields, headers_kept=False)


@named("headers that cannot be decoded")
def undecodable(series: Series) -> Iterator[Case]:
    for what, field in {
        "a timestamp beyond the calendar": amqp.field("a", "T", amqp.timestamp(2**62)),
        "the largest timestamp": amqp.field("a", "T", amqp.timestamp(2**64 - 1)),
        "a timestamp in milliseconds": amqp.field("a", "T", amqp.timestamp(1_795_446_000_000)),
        "a decimal of 255 places": amqp.field("a", "D", b"\xff\xff\xff\xff\xff"),
        "a decimal of 29 places": amqp.field("a", "D", b"\x1d\x00\x00\x00\x01"),
        "a negative decimal": amqp.field("a", "D", b"\x02\xff\xff\xff\xff"),
        "a bad timestamp within": amqp.field(
            "a", "F", amqp.table(amqp.field("b", "T", amqp.timestamp(2**62)))
        ),
        "a bad timestamp in an array": amqp.field(
            "a", "A", amqp.array(b"T" + amqp.timestamp(2**62))
        ),
    }.items():
        fields = _headers(amqp.text("x-tenant", CANARY), field)
        yield from both(series, what, fields, headers_kept=False)
    for depth in (400, 900, 2000):
        value = amqp.table()
        for _ in range(depth):
            value = amqp.table(amqp.field("t", "F", value))
        yield from both(series, f"{depth} tables", {"headers": value}, headers_kept=False)
        value = amqp.array()
        for _ in range(depth):
            value = amqp.array(b"A" + value)
        fields = _headers(amqp.field("a", "A", value))
        yield from both(series, f"{depth} arrays", fields, headers_kept=False)
