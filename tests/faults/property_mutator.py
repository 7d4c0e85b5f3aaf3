"""Hypothesis makes AMQP properties byte by byte, as a broker would hand them on, good and bad.

Each set is decoded by the client library as the service uses it, and gives a delivery that can be
told from others, stored as JSON and published again.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, cast

import pamqp.encode
from aio_pika import IncomingMessage
from aiormq import spec
from aiormq.abc import DeliveredMessage
from hypothesis import strategies as st
from pamqp.header import ContentHeader

from service.rabbitmq.delivery import MAX_HEADER_BYTES, Delivery, from_json
from service.rabbitmq.properties import tolerate_unreadable_properties
from tests.faults.corpus import amqp

NAMES = st.sampled_from(
    [
        *(b"a", b"", b"traceparent", b"tracestate", b"CC", b"$type", b"x-death", b"n" * 255),
        *(b"\xff", b"\xc3\xa9", b"a\x00b", b"x-delivery-count", b"x-failure-reason"),
    ]
) | st.binary(max_size=20)
SHORTS = st.binary(max_size=255).map(amqp.short) | st.text(max_size=60).map(
    lambda text: amqp.short(text.encode()[:255])
)
# Each value is a type's letter and its bytes.
LEAVES = st.one_of(
    st.tuples(st.sampled_from([b"t", b"b", b"B"]), st.binary(min_size=1, max_size=1)),
    st.tuples(st.sampled_from([b"s", b"u"]), st.binary(min_size=2, max_size=2)),
    st.tuples(st.sampled_from([b"I", b"i", b"f"]), st.binary(min_size=4, max_size=4)),
    st.tuples(st.sampled_from([b"l", b"d", b"T"]), st.binary(min_size=8, max_size=8)),
    st.tuples(st.just(b"D"), st.binary(min_size=5, max_size=5)),
    st.tuples(st.sampled_from([b"S", b"x"]), st.binary(max_size=40).map(amqp.long)),
    st.tuples(st.just(b"S"), st.text(max_size=40).map(amqp.long)),
    st.tuples(st.just(b"V"), st.just(b"")),
)


def _table(fields: list[tuple[bytes, tuple[bytes, bytes]]]) -> bytes:
    return amqp.table(*(amqp.short(name) + kind + value for name, (kind, value) in fields))


def _containers(inner: st.SearchStrategy[tuple[bytes, bytes]]) -> st.SearchStrategy[Any]:
    arrays = st.lists(inner, max_size=4).map(
        lambda values: (b"A", amqp.array(*(kind + value for kind, value in values)))
    )
    tables = st.lists(st.tuples(NAMES, inner), max_size=4).map(
        lambda fields: (b"F", _table(fields))
    )
    return arrays | tables


VALUES = st.recursive(LEAVES, _containers, max_leaves=12)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=5).map(_table)
OCTETS = st.integers(0, 255).map(amqp.octet)
TIMESTAMPS = st.integers(0, 2**64 - 1).map(amqp.timestamp)
EXPIRATIONS = st.integers(0, 2**32 - 1).map(lambda milliseconds: amqp.short(str(milliseconds)))
_TEXTS = ("content_type", "correlation_id", "reply_to", "message_id", "type", "app_id")
PROPERTIES: st.SearchStrategy[dict[str, bytes]] = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys((*_TEXTS, "content_encoding"), SHORTS),
        "headers": HEADERS,
        "delivery_mode": OCTETS,
        "priority": OCTETS,
        "expiration": EXPIRATIONS,
        "timestamp": TIMESTAMPS,
    },
)


def received(properties: Mapping[str, bytes], body: bytes, *, redelivered: bool) -> Delivery:
    """A message with these properties, as the client library hands it to the service."""
    tolerate_unreadable_properties()
    raw = amqp.marshal(properties)
    header = ContentHeader(0, len(body))
    (flags,) = struct.unpack(">H", raw[:2])
    header.properties.unmarshal(flags, raw[2:])
    frame = spec.Basic.Deliver(consumer_tag="c", delivery_tag=1, redelivered=redelivered)
    message = DeliveredMessage(delivery=frame, header=header, body=body, channel=cast("Any", None))
    return Delivery(cast("Any", IncomingMessage(message)), "order_created_queue")


def check_properties(properties: Mapping[str, bytes], body: bytes) -> None:
    """Check that a message with these properties can be kept and passed on."""
    delivery = received(properties, body, redelivered=False)
    again = received(properties, body, redelivered=True)
    assert delivery.first
    assert not again.first
    assert len(delivery.digest()) == 32
    assert delivery.digest() == again.digest()
    json.dumps([delivery.properties(), delivery.headers()], allow_nan=False).encode()
    published = pamqp.encode.field_table(from_json(delivery.headers_to_publish()))
    assert len(published) <= MAX_HEADER_BYTES + 1024
    for text in (delivery.correlation_id, delivery.raw.content_type):
        assert text is None or len(text.encode()) <= 255
    for name, value in delivery.trace.items():
        assert name in {"traceparent", "tracestate"}
        assert value.isascii()
