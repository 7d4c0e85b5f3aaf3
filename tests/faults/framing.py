"""As much of MySQL's and AMQP 0-9-1's framing as it takes to see commits, acks and confirms pass.

A framing belongs to one connection. It cuts the bytes of each direction into whole units (packets
or frames), however they were split on their way, and names the moment that a unit is. Units that
are put together again are the bytes that came in.
"""

from __future__ import annotations

import re
from enum import Flag, StrEnum, auto
from typing import NamedTuple, Protocol


class Moment(StrEnum):
    """What a unit says that passes; a link can be cut or frozen as it does.

    A transaction is intake's when it inserted orders or dead letters, whatever it wrote down on its
    way; else a completion when it wrote down in the outbox what is published, and a claim when it
    locked outbox rows and updated them otherwise. COMMIT is the service's word for it, COMMITTED
    the database's OK to that.
    """

    INTAKE_COMMIT = auto()
    INTAKE_COMMITTED = auto()
    CLAIM_COMMIT = auto()
    CLAIM_COMMITTED = auto()
    COMPLETION_COMMIT = auto()
    COMPLETION_COMMITTED = auto()
    PUBLISH = auto()
    """The service's basic.publish."""
    CONFIRM = auto()
    """The broker's basic.ack."""
    ACK = auto()
    """The service's basic.ack."""
    CLOSE = auto()
    """The service's connection.close."""


class Unit(NamedTuple):
    data: bytes
    moment: Moment | None = None


class FramingError(Exception):
    """These bytes are not the protocol that they should be."""


class Framing(Protocol):
    """Takes the first whole unit out of a direction's buffer; None where there is none yet."""

    client: str | None
    """Which process the client is, where it has said so."""

    def from_client(self, buffer: bytearray) -> Unit | None: ...

    def from_server(self, buffer: bytearray) -> Unit | None: ...

    def refused(self, unit: Unit) -> bytes:
        """A unit that the server answers with an error, in place of this one of the client."""


# MySQL

MYSQL_HEADER = 4  # 3 bytes length, little-endian, and 1 byte sequence
COM_QUERY = 0x03
OK = 0x00
PROCESS_ID = re.compile(rb"\x04_pid.([0-9]+)", re.DOTALL)
INTAKE = re.compile(rb"INSERT INTO (orders|dead_letters)\b")
LOCKING = re.compile(rb"SELECT .* FOR UPDATE\b", re.DOTALL)
UPDATING = re.compile(rb"UPDATE outbox\b")
PUBLISHED = re.compile(rb"UPDATE outbox\b[^']*\bpublished_at=(?!NULL)")
REFUSED_COMMIT = (
    b"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1180, MESSAGE_TEXT = 'Got error 28 during COMMIT'"
)


class Did(Flag):
    """What the open transaction has done so far."""

    NOTHING = 0
    INTAKE = auto()
    LOCKING = auto()
    UPDATING = auto()
    PUBLISHED = auto()


class MySQLFraming:
    """Knows what a transaction has done by its statements."""

    def __init__(self) -> None:
        self.client: str | None = None
        self._did = Did.NOTHING
        self._answer: Moment | None = None
        """What the next OK of the server is."""

    def from_client(self, buffer: bytearray) -> Unit | None:
        packet = _mysql_packet(buffer)
        if packet is None:
            return None
        moment = self._answer = None
        # Sequence 0 starts a command; logging in, and the rest of a long packet, count on.
        if packet[3] > 0:
            self.client = self.client or _process_id(packet)
        elif packet[MYSQL_HEADER : MYSQL_HEADER + 1] == bytes([COM_QUERY]):
            moment = self._query(packet[MYSQL_HEADER + 1 :])
        return Unit(packet, moment)

    def from_server(self, buffer: bytearray) -> Unit | None:
        packet = _mysql_packet(buffer)
        if packet is None:
            return None
        answer, self._answer = self._answer, None
        is_ok = packet[MYSQL_HEADER : MYSQL_HEADER + 1] == bytes([OK])
        return Unit(packet, answer if is_ok else None)

    def refused(self, unit: Unit) -> bytes:
        """As a full disk refuses a COMMIT: nothing is committed, and the transaction stays open."""
        command = bytes([COM_QUERY]) + REFUSED_COMMIT
        return len(command).to_bytes(3, "little") + unit.data[3:MYSQL_HEADER] + command

    def _query(self, statement: bytes) -> Moment | None:
        match statement:
            case b"COMMIT":
                moment, self._answer = self._commit()
                self._did = Did.NOTHING
                return moment
            case b"ROLLBACK":
                self._did = Did.NOTHING
            case _:
                for pattern, what in (
                    (INTAKE, Did.INTAKE),
                    (LOCKING, Did.LOCKING),
                    (UPDATING, Did.UPDATING),
                    (PUBLISHED, Did.PUBLISHED),
                ):
                    if pattern.match(statement):
                        self._did |= what
        return None

    def _commit(self) -> tuple[Moment | None, Moment | None]:
        if Did.INTAKE in self._did:
            return Moment.INTAKE_COMMIT, Moment.INTAKE_COMMITTED
        if Did.PUBLISHED in self._did:
            return Moment.COMPLETION_COMMIT, Moment.COMPLETION_COMMITTED
        if Did.LOCKING | Did.UPDATING in self._did:
            return Moment.CLAIM_COMMIT, Moment.CLAIM_COMMITTED
        return None, None


def _process_id(login: bytes) -> str | None:
    found = PROCESS_ID.search(login)
    return found[1].decode() if found else None


def _mysql_packet(buffer: bytearray) -> bytes | None:
    if len(buffer) < MYSQL_HEADER:
        return None
    return _take(buffer, MYSQL_HEADER + int.from_bytes(buffer[:3], "little"))


# AMQP 0-9-1

AMQP_GREETING = 8  # "AMQP" and the version: no frame
AMQP_HEADER = 7  # type 1, channel 2, size 4, big-endian
FRAME_END = 0xCE
METHOD = 1
CONNECTION_CLOSE = (10, 50)
BASIC_PUBLISH = (60, 40)
BASIC_ACK = (60, 80)


class AMQPFraming:
    client: str | None = None

    def from_client(self, buffer: bytearray) -> Unit | None:
        return _amqp_unit(
            buffer,
            {
                BASIC_ACK: Moment.ACK,
                BASIC_PUBLISH: Moment.PUBLISH,
                CONNECTION_CLOSE: Moment.CLOSE,
            },
        )

    def from_server(self, buffer: bytearray) -> Unit | None:
        return _amqp_unit(buffer, {BASIC_ACK: Moment.CONFIRM})

    def refused(self, unit: Unit) -> bytes:
        raise NotImplementedError("AMQP answers an error by closing the channel")


def _amqp_unit(buffer: bytearray, moments: dict[tuple[int, int], Moment]) -> Unit | None:
    if buffer[:1] == b"A":
        greeting = _take(buffer, AMQP_GREETING)
        return None if greeting is None else Unit(greeting)
    if len(buffer) < AMQP_HEADER:
        return None
    frame = _take(buffer, AMQP_HEADER + int.from_bytes(buffer[3:7]) + 1)
    if frame is None:
        return None
    if frame[-1] != FRAME_END:
        raise FramingError(f"a frame ends with {frame[-1]:#x}")
    if frame[0] != METHOD:
        return Unit(frame)
    method = frame[AMQP_HEADER : AMQP_HEADER + 4]
    return Unit(frame, moments.get((int.from_bytes(method[:2]), int.from_bytes(method[2:]))))


def _take(buffer: bytearray, size: int) -> bytes | None:
    if len(buffer) < size:
        return None
    unit = bytes(memoryview(buffer)[:size])
    del buffer[:size]
    return unit
