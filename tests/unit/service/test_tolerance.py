from __future__ import annotations

import struct

import pytest
from pamqp import decode

from service.tolerance import UNREADABLE, tolerate_unreadable_properties


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
