from __future__ import annotations

import struct
from datetime import UTC, datetime

import aio_pika
import pytest
from pamqp import decode, encode
from pamqp.commands import Basic

from service.rabbitmq.properties import UNREADABLE, tolerate_unreadable_properties


@pytest.fixture(autouse=True)
def _registered() -> None:
    tolerate_unreadable_properties()


def test_a_short_string_that_is_not_utf8_can_be_read_and_written_again() -> None:
    consumed, text = decode.METHODS["shortstr"](bytes([255]) + b"\xff" * 255 + b"rest")

    assert consumed == 256
    assert isinstance(text, str)
    assert text.startswith(r"\xff")
    assert len(text.encode()) <= 255


def test_a_timestamp_beyond_the_calendar_is_none() -> None:
    assert decode.METHODS["timestamp"](struct.pack(">Q", 2**62)) == (8, None)
    assert decode.METHODS["timestamp"](struct.pack(">Q", 0))[1] is not None


def test_headers_that_cannot_be_read_say_so_and_are_passed_over_whole() -> None:
    content = b"\x01\xff" + b"t\x01"
    value = struct.pack(">I", len(content)) + content + b"rest"

    assert decode.METHODS["table"](value) == (4 + len(content), {UNREADABLE: True})


@pytest.mark.parametrize(("sent", "read"), [(1, 1), (2, 2), (0, 1), (3, 1), (255, 1)])
def test_a_delivery_mode_that_there_is_not_is_read_as_transient(sent: int, read: int) -> None:
    properties = Basic.Properties()
    properties.unmarshal(1 << 12, bytes([sent]))

    assert properties.delivery_mode == read
    assert aio_pika.DeliveryMode(properties.delivery_mode)


@pytest.mark.parametrize("number", [0.1, 5e-324, 1e308, -2.5])
def test_a_double_in_a_header_keeps_all_its_bits(number: float) -> None:
    written = encode.field_table({"x": number})

    assert decode.field_table(written) == (len(written), {"x": number})


def test_a_time_beyond_32_bits_is_seconds_and_not_milliseconds() -> None:
    late = datetime(9999, 12, 31, tzinfo=UTC)

    assert decode.METHODS["timestamp"](struct.pack(">Q", int(late.timestamp()))) == (8, late)
