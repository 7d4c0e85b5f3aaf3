"""Properties that the client library cannot decode cost no connection and no message."""

from __future__ import annotations

import struct
from typing import Any, cast

import aiormq
import pytest
from aiormq import spec

from db.engine import Database
from db.models import DeadLetter, Order
from service.config.settings import Settings
from tests.factories import order_created_json
from tests.harness import Wire, eventually, rows, running

INCOMING = "order_created_queue"


def short(value: bytes) -> bytes:
    return bytes([len(value)]) + value


def table(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def field(name: bytes, kind: bytes, value: bytes) -> bytes:
    return short(name) + kind + value


def nested(depth: int) -> bytes:
    content = b""
    for _ in range(depth):
        content = field(b"t", b"F", table(content))
    return table(content)


# Bits of the property flags: AMQP 0-9-1 specification, class basic.
HEADERS, PRIORITY, CORRELATION_ID, MESSAGE_ID, TIMESTAMP = (
    1 << 13,
    1 << 11,
    1 << 10,
    1 << 7,
    1 << 6,
)
CASES = {
    "a timestamp beyond the calendar": (TIMESTAMP, struct.pack(">Q", 2**62)),
    "the largest timestamp": (TIMESTAMP, struct.pack(">Q", 2**64 - 1)),
    "a message id that is not UTF-8": (MESSAGE_ID, short(b"\xff\xfe\x00")),
    "a correlation id that is not UTF-8": (CORRELATION_ID, short(b"\xc3")),
    "a header key that is not UTF-8": (HEADERS, table(field(b"\xff", b"t", b"\x01"))),
    "a header timestamp beyond the calendar": (
        HEADERS,
        table(field(b"when", b"T", struct.pack(">Q", 2**62))),
    ),
    "a header with a huge decimal scale": (
        HEADERS,
        table(field(b"d", b"D", b"\xff\xff\xff\xff\xff")),
    ),
    "headers nested 400 deep": (HEADERS, nested(400)),
    "a header that is not UTF-8": (HEADERS, table(field(b"s", b"S", table(b"\xff\xfe")))),
    "the highest priority": (PRIORITY, b"\xff"),
}


class RawProperties(spec.Basic.Properties):
    """Property flags and bytes exactly as given."""

    raw: tuple[int, bytes] = (0, b"")

    def marshal(self) -> bytes:
        flags, content = self.raw
        return struct.pack(">H", flags) + content


@pytest.mark.parametrize("body", [order_created_json(), b"poison"], ids=["order", "poison"])
async def test_every_message_ends_where_it_belongs_and_the_link_stays(
    settings: Settings,
    database: Database,
    wire: Wire,
    caplog: pytest.LogCaptureFixture,
    body: bytes,
) -> None:
    async with running(settings):
        for number, (flags, content) in enumerate(CASES.values()):
            properties = RawProperties()
            properties.raw = (flags, content)
            channel = cast("aiormq.Channel", await wire.channel.get_underlay_channel())
            numbered = body.replace(b"order-101", b"o-%d" % number)
            numbered = numbered.replace(b"unique-key-001", b"k-%d" % number)
            await channel.basic_publish(
                numbered, routing_key=INCOMING, properties=properties, mandatory=True
            )

        async def all_there() -> Any:
            table = Order if body.startswith(b"{") else DeadLetter
            return len(await rows(database, table)) == len(CASES)

        await eventually(all_there)

    assert "consuming-stopped" not in caplog.messages
    assert not [r.__dict__["fields"] for r in caplog.records if "message-failed" in r.getMessage()]
    assert await wire.depth(INCOMING) == 0
