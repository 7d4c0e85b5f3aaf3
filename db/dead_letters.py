"""Statements on `dead_letters`. Nothing here commits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import bindparam, func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from db.models import DeadLetter


class LatestDeadLetter(NamedTuple):
    """What a list of dead letters shows of one: never its body."""

    dead_letter_id: str
    order_id: str | None
    reason: str
    details: str
    received_at: datetime


_LATEST = [getattr(DeadLetter, name) for name in LatestDeadLetter._fields]
_DIGEST = col(DeadLetter.message_digest)
_LAST_OCCURRENCES = (
    select(_DIGEST, func.max(col(DeadLetter.occurrence)))
    .where(_DIGEST.in_(bindparam("digests", expanding=True)))
    .group_by(_DIGEST)
)
_INSERT = insert(DeadLetter)


async def last_occurrences(
    connection: AsyncConnection, digests: Collection[bytes]
) -> dict[bytes, int]:
    """How often each of these messages was recorded so far; a digest never seen is absent."""
    rows = await connection.execute(_LAST_OCCURRENCES, {"digests": digests})
    return {row[0]: row[1] for row in rows}


async def find_recorded(
    connection: AsyncConnection, digest: bytes, occurrence: int
) -> tuple[str, datetime]:
    """The id of a recorded message and when it came, by what tells it from equal ones."""
    rows = await connection.execute(
        select(col(DeadLetter.dead_letter_id), col(DeadLetter.received_at)).where(
            col(DeadLetter.occurrence) == occurrence, col(DeadLetter.message_digest) == digest
        )
    )
    dead_letter_id, received_at = rows.one()
    return dead_letter_id, received_at


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
