"""Commits, acks and confirms are seen for what they are, however the bytes are split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.bytes_on_the_wire import (
    BASIC_ACK,
    BASIC_PUBLISH,
    BODY,
    GREETING,
    frame,
    method,
    packet,
    query,
)
from tests.faults.framing import AMQPFraming, FramingError, Moment, MySQLFraming, Unit

OK = packet(b"\x00\x00\x00\x02\x00\x00\x00", sequence=1)
ERROR = packet(b"\xff\xbd\x04#40001Deadlock found", sequence=1)
INSERT_ORDER = query("INSERT INTO orders (order_id) VALUES ('COMMIT')")
INSERT_EVENT = query("INSERT INTO outbox (event_id) VALUES ('e')")
INSERT_DEAD_LETTER = query("INSERT INTO dead_letters (reason) VALUES ('r')")
LOCK_EVENTS = query(
    "SELECT outbox.id FROM outbox ORDER BY outbox.id LIMIT 9 FOR UPDATE SKIP LOCKED"
)
LEASE_EVENTS = query("UPDATE outbox SET lease_token='published_at=' WHERE outbox.id IN (1)")
RELEASE_EVENTS = query("UPDATE outbox SET lease_token=NULL, published_at=NULL WHERE outbox.id = 1")
COMPLETE_EVENTS = query("UPDATE outbox SET lease_token=NULL, published_at=now(6) WHERE id IN (1)")
COMMIT = query("COMMIT")
ROLLBACK = query("ROLLBACK")

Take = Callable[[bytearray], Unit | None]


def units(take: Take, pieces: Sequence[bytes]) -> list[Unit]:
    """What comes of these pieces, received one after the other."""
    buffer, found = bytearray(), list[Unit]()
    for piece in pieces:
        buffer += piece
        while (unit := take(buffer)) is not None:
            found.append(unit)
    assert bytes(buffer) == b"", "something was left over"
    return found


def moments(take: Take, *pieces: bytes) -> list[Moment]:
    return [unit.moment for unit in units(take, pieces) if unit.moment]


def split(data: bytes, places: set[int]) -> list[bytes]:
    edges = [0, *sorted(place for place in places if place < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


# MySQL


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([INSERT_ORDER, INSERT_EVENT], Moment.INTAKE_COMMIT),
        ([INSERT_DEAD_LETTER, INSERT_EVENT], Moment.INTAKE_COMMIT),
        ([LOCK_EVENTS, LEASE_EVENTS], Moment.CLAIM_COMMIT),
        ([COMPLETE_EVENTS], Moment.COMPLETION_COMMIT),
    ],
)
def test_a_commit_is_told_by_what_its_transaction_has_done(
    statements: list[bytes], expected: Moment
) -> None:
    assert moments(MySQLFraming().from_client, *statements, COMMIT) == [expected]


@pytest.mark.parametrize(
    "statement", [query("SELECT 1"), LOCK_EVENTS, LEASE_EVENTS, RELEASE_EVENTS]
)
def test_a_transaction_that_did_nothing_of_interest_is_none(statement: bytes) -> None:
    assert moments(MySQLFraming().from_client, statement, COMMIT) == []


def test_a_client_of_the_database_is_known_by_the_process_it_names() -> None:
    framing = MySQLFraming()
    moments(
        framing.from_client, packet(b"\x0c_client_name\x08aiomysql\x04_pid\x044711", sequence=1)
    )
    assert framing.client == "4711"


def test_what_was_rolled_back_or_committed_before_does_not_count() -> None:
    take = MySQLFraming().from_client
    assert moments(take, INSERT_ORDER, ROLLBACK, COMPLETE_EVENTS, COMMIT, COMMIT) == [
        Moment.COMPLETION_COMMIT
    ]


def test_only_the_ok_that_answers_a_commit_says_that_it_is_committed() -> None:
    framing = MySQLFraming()
    moments(framing.from_client, INSERT_ORDER)
    assert moments(framing.from_server, OK) == []
    moments(framing.from_client, COMMIT)
    assert moments(framing.from_server, OK) == [Moment.INTAKE_COMMITTED]
    assert moments(framing.from_server, OK) == []


def test_an_error_that_answers_a_commit_does_not_say_that_it_is_committed() -> None:
    framing = MySQLFraming()
    moments(framing.from_client, COMPLETE_EVENTS, COMMIT)
    assert moments(framing.from_server, ERROR) == []


def test_logging_in_and_the_rest_of_a_long_packet_are_no_commands() -> None:
    login = packet(b"\x03COMMIT", sequence=1)
    assert moments(MySQLFraming().from_client, INSERT_ORDER, login) == []


@given(
    st.lists(
        st.sampled_from(
            [INSERT_ORDER, INSERT_EVENT, LOCK_EVENTS, COMPLETE_EVENTS, COMMIT, ROLLBACK]
        ),
        max_size=8,
    ),
    st.sets(st.integers(1, 400)),
)
def test_mysql_packets_are_the_same_however_they_were_split(
    statements: list[bytes], places: set[int]
) -> None:
    whole = units(MySQLFraming().from_client, statements)
    assert units(MySQLFraming().from_client, split(b"".join(statements), places)) == whole
    assert [unit.data for unit in whole] == statements


# AMQP


def test_the_services_acks_and_publishes_and_the_brokers_confirms_are_told_apart() -> None:
    framing = AMQPFraming()
    client = [GREETING, method(*BASIC_PUBLISH), BODY, method(*BASIC_ACK)]
    assert moments(framing.from_client, *client) == [Moment.PUBLISH, Moment.ACK]
    assert moments(framing.from_server, method(60, 60), BODY, method(*BASIC_ACK)) == [
        Moment.CONFIRM
    ]


def test_a_body_that_reads_like_an_ack_is_none() -> None:
    assert moments(AMQPFraming().from_client, frame(3, method(*BASIC_ACK)[7:-1])) == []


def test_a_frame_without_its_end_is_an_error_and_not_guessed_at() -> None:
    with pytest.raises(FramingError):
        units(AMQPFraming().from_server, [frame(1, b"abcd")[:-1] + b"\x00"])


@given(
    st.lists(
        st.sampled_from([method(*BASIC_PUBLISH), BODY, method(*BASIC_ACK), frame(8, b"")]),
        max_size=8,
    ),
    st.sets(st.integers(1, 200)),
)
def test_amqp_frames_are_the_same_however_they_were_split(
    frames: list[bytes], places: set[int]
) -> None:
    sent = [GREETING, *frames]
    whole = units(AMQPFraming().from_client, sent)
    assert units(AMQPFraming().from_client, split(b"".join(sent), places)) == whole
    assert [unit.data for unit in whole] == sent
