"""Statements on `dead_letters`. Nothing here commits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import bindparam, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm.exc import StaleDataError
from sqlmodel import col

from db.models import DeadLetter
from db.types import database_now


class LatestDeadLetter(NamedTuple):
    """What a list of dead letters shows of one: never its body."""

    dead_letter_id: str
    order_id: str | None
    reason: str
    details: str
    received_at: datetime


class Unacknowledged(NamedTuple):
    """A dead letter whose message may be delivered again."""

    message_digest: bytes
    dead_letter_id: str
    received_at: datetime


class Returned(NamedTuple):
    """A dead letter whose copy came back; `attempts` as they were before."""

    dead_letter_id: str
    received_at: datetime
    attempts: int
    body_bytes: int


# More than all processes together can hold unacknowledged of one message at a time.
MAX_UNACKNOWLEDGED = 10_000
_LATEST = [getattr(DeadLetter, name) for name in LatestDeadLetter._fields]
_DIGEST = col(DeadLetter.message_digest)
_LAST_OCCURRENCES = (
    select(_DIGEST, func.max(col(DeadLetter.occurrence)))
    .where(_DIGEST.in_(bindparam("digests", expanding=True)))
    .group_by(_DIGEST)
)
_INSERT = insert(DeadLetter)
_UNACKNOWLEDGED = (
    select(*(getattr(DeadLetter, name) for name in Unacknowledged._fields))
    .where(
        _DIGEST.in_(bindparam("digests", expanding=True)),
        col(DeadLetter.acknowledged_at).is_(None),
    )
    .order_by(col(DeadLetter.occurrence).desc())
    .limit(MAX_UNACKNOWLEDGED)
)
_MARK_ACKNOWLEDGED = (
    update(DeadLetter)
    .where(col(DeadLetter.dead_letter_id).in_(bindparam("ids", expanding=True)))
    .values(acknowledged_at=database_now())
)
_ID = col(DeadLetter.dead_letter_id)
_RETURNED = select(
    _ID,
    col(DeadLetter.received_at),
    col(DeadLetter.attempts),
    func.length(col(DeadLetter.body)),
).where(_ID.in_(bindparam("ids", expanding=True)))
_BODIES = select(_ID, col(DeadLetter.body)).where(_ID.in_(bindparam("ids", expanding=True)))
_COUNT_ATTEMPT = (
    update(DeadLetter)
    .where(bindparam("refused_again") == _ID)
    .values(attempts=col(DeadLetter.attempts) + 1)
)
_MARK_REDRIVEN = (
    update(DeadLetter)
    .where(_ID.in_(bindparam("ids", expanding=True)))
    .values(redriven_at=database_now())
)


async def last_occurrences(
    connection: AsyncConnection, digests: Collection[bytes]
) -> dict[bytes, int]:
    """How often each of these messages was recorded so far; a digest never seen is absent."""
    rows = await connection.execute(_LAST_OCCURRENCES, {"digests": digests})
    return {row[0]: row[1] for row in rows}


async def find_unacknowledged(
    connection: AsyncConnection, digests: Collection[bytes]
) -> list[Unacknowledged]:
    """Dead letters of these digests whose message may be delivered again, the latest first."""
    return [
        Unacknowledged(*row)
        for row in await connection.execute(_UNACKNOWLEDGED, {"digests": digests})
    ]


async def mark_acknowledged(connection: AsyncConnection, ids: Collection[str]) -> None:
    """Note that the broker has the acknowledgement of these dead letters' messages."""
    await connection.execute(_MARK_ACKNOWLEDGED, {"ids": ids})


async def find_returned(connection: AsyncConnection, ids: Collection[str]) -> dict[str, Returned]:
    """Those of these dead letters that are stored, by their ids; without their bodies."""
    rows = await connection.execute(_RETURNED, {"ids": ids})
    return {row[0]: Returned(*row) for row in rows}


async def read_bodies(connection: AsyncConnection, ids: Collection[str]) -> dict[str, bytes]:
    """The bodies of these dead letters, by their ids."""
    rows = await connection.execute(_BODIES, {"ids": ids})
    return {row[0]: row[1] for row in rows}


async def count_attempts(connection: AsyncConnection, ids: Sequence[str]) -> None:
    """Count one more attempt for each time that an id is among these.

    Raises:
        StaleDataError: a row was deleted after it was read.
    """
    # The same order of locks everywhere: fewer deadlocks between processes.
    for each in sorted(ids):
        counted = await connection.execute(_COUNT_ATTEMPT, {"refused_again": each})
        if counted.rowcount != 1:
            raise StaleDataError("a dead letter that came back is not there any more")


async def mark_redriven(connection: AsyncConnection, ids: Collection[str]) -> None:
    """Note that the messages of these dead letters are orders now."""
    await connection.execute(_MARK_REDRIVEN, {"ids": ids})


async def find_stored(connection: AsyncConnection, ids: Collection[str]) -> set[str]:
    """Which of these dead letters are stored."""
    rows = await connection.execute(
        select(col(DeadLetter.dead_letter_id)).where(col(DeadLetter.dead_letter_id).in_(ids))
    )
    return set(rows.scalars())


async def insert_dead_letters(
    connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert all rows together; the driver makes as few statements of it as fit."""
    await connection.execute(_INSERT, rows)


async def count_by_reason(connection: AsyncConnection) -> dict[str, int]:
    rows = await connection.execute(
        select(col(DeadLetter.reason), func.count()).group_by(col(DeadLetter.reason))
    )
    return {row[0]: row[1] for row in rows}


async def latest_dead_letters(connection: AsyncConnection, limit: int) -> list[LatestDeadLetter]:
    """The latest dead letters, newest first: their ids are UUIDv7 and sort by time."""
    rows = await connection.execute(
        select(*_LATEST).order_by(col(DeadLetter.dead_letter_id).desc()).limit(limit)
    )
    return [LatestDeadLetter(*row) for row in rows]
