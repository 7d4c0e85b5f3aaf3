"""What the connection writes into a statement."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from db.engine import _Connection


@pytest.fixture
def connection() -> Iterator[_Connection]:
    """Not connected: it says what it would send."""
    loop = asyncio.new_event_loop()
    connection = _Connection(loop=loop)
    connection.server_status = 0
    yield connection
    loop.close()


@pytest.mark.parametrize("byte", range(256))
def test_each_byte_is_two_digits_of_a_literal(connection: _Connection, byte: int) -> None:
    body = bytes([byte]) * 1000
    literal = connection.escape(body)
    assert (literal[:2], literal[-1:]) == ("x'", "'")
    assert bytes.fromhex(literal[2:-1]) == body
    assert len(literal) == 2 * len(body) + 3


def test_a_text_is_escaped_as_every_session_of_ours_reads_it(connection: _Connection) -> None:
    assert connection.escape("a\\b'c") == r"'a\\b''c'"


@pytest.mark.parametrize(("value", "literal"), [(None, "NULL"), (7, "7"), (True, "1")])
def test_other_values_are_written_as_the_driver_writes_them(
    connection: _Connection, value: object, literal: str
) -> None:
    assert connection.escape(value) == literal
