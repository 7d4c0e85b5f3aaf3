"""Statements on `dead_letters`. Nothing here commits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from db.models import DeadLetter


async def last_occurrences(
    connection: AsyncConnection, digests: Collection[bytes]
) -> dict[bytes, int]:
    """How often each of these messages was recorded so far; a digest never seen is absent."""
    digest = col(DeadLetter.message_digest)
    rows = await connection.execute(
        select(digest, func.max(col(DeadLetter.occurrence)))
        .where(digest.in_(digests))
        .group_by(digest)
    )
    return {row[0]: row[1] for row in rows}


async def find_recorded(connection: AsyncConnection, ids: Collection[str]) -> set[str]:
    """Which of these dead letters are stored."""
    rows = await connection.execute(
        select(col(DeadLetter.dead_letter_id)).where(col(DeadLetter.dead_letter_id).in_(ids))
    )
    return set(rows.scalars())


async def insert_dead_letters(
    connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]
) -> None:
    """Insert all rows in one statement, or none."""
    await connection.execute(insert(DeadLetter), list(rows))


async def count_by_reason(connection: AsyncConnection) -> dict[str, int]:
    rows = await connection.execute(
        select(col(DeadLetter.reason), func.count()).group_by(col(DeadLetter.reason))
    )
    return {row[0]: row[1] for row in rows}
