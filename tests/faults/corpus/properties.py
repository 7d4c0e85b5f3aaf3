"""AMQP properties with odd values. None of them makes an order of poison, or poison of an order.

What every broker refuses to take (an `expiration` that is no number, another user's `user_id`, a
float header that is not finite) reaches nobody and is not here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.faults.corpus import amqp
from tests.faults.corpus.case import CANARY, OTHER_TYPE, UNSUPPORTED, Case
from tests.faults.corpus.series import Properties, Series, body_of, named

TEXTS = (
    *("", " ", CANARY, f"{CANARY} {CANARY}", "a" * 255, "\u00e9" * 127, "\N{GRINNING FACE}" * 63),
    *("\r\n", f"{CANARY}\r\nERROR", "\x00", f"\x1b[31m{CANARY}", "'; DROP TABLE orders;--", "%s"),
    *("null", "0", "-1", "../..", "\ufeff", "\u202e" + CANARY, "{}", "\uffff", "\x7f"),
)


def both(series: Series, what: str, properties: Properties, **how: Any) -> Iterator[Case]:
    """The same properties on an order and on poison."""
    fields = series.order()
    yield series.stored(f"{what}, on an order", fields, properties=properties, **how)
    fields = series.order(totalAmount=0)
    yield series.no_order(f"{what}, on poison", fields, properties=properties, **how)


def _shorts(name: str, texts: tuple[str, ...]) -> Iterator[tuple[str, Properties]]:
    for text in texts:
        raw = text.encode()
        what = text[:20].encode("unicode_escape").decode()
        yield f"{what!r} of {len(raw)} bytes", {name: amqp.short(raw)}


@named("content types")
def content_types(series: Series) -> Iterator[Case]:
    types = (
        *("text/plain", "text/html", "application/xml", "application/octet-stream", "image/png"),
        *(
            "application/json; charset=utf-16",
            "application/json;charset=latin-1",
            "APPLICATION/JSON",
        ),
        *("application/x-www-form-urlencoded", "application/msgpack", "application/gzip", "json"),
        *("multipart/form-data; boundary=x", "text/x-python", "application/x-pickle"),
    )
    for what, properties in _shorts("content_type", types + TEXTS):
        yield from both(series, what, properties)
    yield from both(series, "none", {"content_type": None})


@named("content encodings")
def content_encodings(series: Series) -> Iterator[Case]:
    encodings = (
        *(
            "gzip",
            "br",
            "zstd",
            "deflate",
            "compress",
            "ascii",
        ),
        *(
            "utf-16",
            "base64",
            "7bit",
            "8bit",
            "binary",
            "x-gzip",
            "gzip, br",
            "none",
            "application/json",
        ),
    )
    for what, properties in _shorts("content_encoding", encodings + TEXTS):
        if properties["content_encoding"] == amqp.short(""):
            yield from both(series, f"{what}: the same as none", properties)
            continue
        body = body_of(series.order())
        yield series.dead(f"{what}, on an order", body, UNSUPPORTED, properties=properties)
        poison = f"{{{CANARY}".encode() + body
        yield series.dead(f"{what}, on poison", poison, UNSUPPORTED, properties=properties)
    for plain in ("identity", "Identity", "utf-8", "UTF-8", "utf8"):
        yield from both(series, f"{plain}: none", {"content_encoding": amqp.short(plain)})
    large = body_of(series.order(note="x" * 262_144))
    encoding = {"content_encoding": amqp.short("gzip")}
    yield series.dead("gzip, over 256 KiB", large, UNSUPPORTED, properties=encoding)


@named("delivery modes")
def delivery_modes(series: Series) -> Iterator[Case]:
    yield from both(series, "none", {"delivery_mode": None})
    for mode in (0, 1, 2, 3, 127, 128, 255):
        properties = {"delivery_mode": amqp.octet(mode)}
        yield from both(series, f"{mode}", properties, may_be_refused=mode not in {1, 2})


@named("priorities")
def priorities(series: Series) -> Iterator[Case]:
    for priority in (0, 1, 4, 5, 9, 10, 31, 32, 127, 128, 254, 255):
        yield from both(series, f"{priority}", {"priority": amqp.octet(priority)})


@named("correlation ids")
def correlation_ids(series: Series) -> Iterator[Case]:
    for what, properties in _shorts("correlation_id", TEXTS):
        raw = properties["correlation_id"]
        assert raw is not None
        yield from both(series, what, properties, correlation=raw[1:].decode() or None)
    yield from both(series, "none", {"correlation_id": None}, correlation=None)


@named("message ids")
def message_ids(series: Series) -> Iterator[Case]:
    for what, properties in _shorts("message_id", TEXTS):
        yield from both(series, what, properties)
    for name in ("the same", CANARY):
        properties = {"message_id": amqp.short(name), "correlation_id": None}
        yield from both(series, f"{name}, and no correlation id", properties, correlation=name)


@named("reply-to")
def reply_to(series: Series) -> Iterator[Case]:
    queues = (
        *("order_processed_queue", "order_failed_queue", "order_created_queue", "order_dlq"),
        *("amq.rabbitmq.trace", "/exchange/order_events/order.processed", f"nowhere-{CANARY}"),
        *("http://169.254.169.254/", "#", "*"),
    )
    for what, properties in _shorts("reply_to", queues + TEXTS):
        yield from both(series, what, properties)


@named("expiration")
def expiration(series: Series) -> Iterator[Case]:
    """All of them far ahead: what expires is the broker's business."""
    for text in ("600000", "00600000", "3600000", "2147483647", "2147483648", "4294967295"):
        yield from both(series, text, {"expiration": amqp.short(text)})


@named("timestamps")
def timestamps(series: Series) -> Iterator[Case]:
    for seconds in (
        *(0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 253_402_300_799, 253_402_300_800, 2**40),
        *(1_795_446_000_000, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
    ):
        yield from both(series, f"{seconds}", {"timestamp": amqp.timestamp(seconds)})


@named("types and app ids")
def types(series: Series) -> Iterator[Case]:
    events = ("OrderProcessed", "OrderFailed", "OrderCreated.v2", "DeadLetter", "ordercreated")
    texts = events + TEXTS
    for text, (what, properties) in zip(texts, _shorts("type", texts), strict=True):
        if not text.strip() or text == "ordercreated":
            yield from both(series, f"type {what}", properties)
        else:
            body = body_of(series.order())
            yield series.dead(f"type {what}", body, OTHER_TYPE, properties=properties)
    for what, properties in _shorts("app_id", ("order-service", *TEXTS)):
        yield from both(series, f"app id {what}", properties)


@named("everything and nothing")
def together(series: Series) -> Iterator[Case]:
    nothing: Properties = dict.fromkeys(
        ("content_type", "headers", "delivery_mode", "correlation_id")
    )
    yield from both(series, "no property at all", nothing, correlation=None)
    long = amqp.short("\u00e9" * 127)
    everything: Properties = {
        "content_type": long,
        "priority": amqp.octet(255),
        "reply_to": long,
        "expiration": amqp.short("4294967295"),
        "message_id": long,
        "timestamp": amqp.timestamp(2**64 - 1),
        "type": amqp.short("Shop.OrderCreated, Shop"),
        "app_id": long,
    }
    yield from both(series, "every property", everything)
