"""Statements on `outbox`. Nothing here commits. Time is the database's clock throughout."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    Integer,
    Select,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased
from sqlmodel import col

from db.models import OutboxEvent
from db.types import database_now


class ClaimedEvent(NamedTuple):
    """What is needed to publish an event, and how often that was tried before."""

    id: int
    event_id: str
    event_type: str
    exchange: str
    routing_key: str
    payload: bytes
    content_type: str | None
    correlation_id: str | None
    headers: dict[str, Any]
    created_at: Any
    attempts: int


class Backlog(NamedTuple):
    """How much waits in the outbox; `oldest_pending_seconds` is 0 where nothing is pending."""

    pending: int
    parked: int
    oldest_pending_seconds: float


class UnsettledEvent(NamedTuple):
    """What a list of the outbox shows of an event that is not published: never its payload."""

    event_type: str
    aggregate_type: str
    aggregate_id: str
    attempts: int
    last_error: str | None
    created_at: datetime
    parked_at: datetime | None


_UNSETTLED = [getattr(OutboxEvent, name) for name in UnsettledEvent._fields]
_CLAIMED = [getattr(OutboxEvent, name) for name in ClaimedEvent._fields]
_UNPUBLISHED = col(OutboxEvent.published_at).is_(None)
_WAITING = (_UNPUBLISHED, col(OutboxEvent.parked_at).is_(None))


async def add_events(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert all rows together; the driver makes as few statements of it as fit."""
    await connection.execute(insert(OutboxEvent), list(rows))


def _claimable() -> Select[Any]:
    earlier = aliased(OutboxEvent)
    blocked = (
        select(col(earlier.id))
        .where(
            col(earlier.aggregate_id) == col(OutboxEvent.aggregate_id),
            col(earlier.aggregate_type) == col(OutboxEvent.aggregate_type),
            col(earlier.published_at).is_(None),
            col(earlier.id) < col(OutboxEvent.id),
        )
        .with_hint(earlier, "FORCE INDEX (ix_outbox_aggregate)", "mysql")
        .exists()
    )
    available_at, lease_until = col(OutboxEvent.available_at), col(OutboxEvent.lease_until)
    return (
        select(*_CLAIMED)
        .with_hint(OutboxEvent, "FORCE INDEX (ix_outbox_waiting)", "mysql")
        .where(
            *_WAITING,
            or_(available_at.is_(None), available_at <= database_now()),
            or_(lease_until.is_(None), lease_until < database_now()),
            ~blocked,
        )
        .order_by(col(OutboxEvent.id))
        .limit(bindparam("most", type_=Integer))
        .with_for_update(skip_locked=True)
    )


# Both indexes are named because the optimizer goes by statistics, which an outbox outruns: by old
# ones it compares each candidate with every waiting event (400,000 published and 5,000 waiting
# events on MySQL 9.7: a million rows read for a claim of 200, against 800).
CLAIMABLE = _claimable()


async def lock_claimable(connection: AsyncConnection, limit: int) -> list[ClaimedEvent]:
    """Lock the oldest events that may be published now, passing over what others have locked.

    Of one aggregate only the earliest unpublished event qualifies, parked ones included: that is
    how events of one aggregate keep their order.
    """
    rows = await connection.execute(CLAIMABLE, {"most": limit})
    return [ClaimedEvent(*row) for row in rows]


async def lease(
    connection: AsyncConnection, ids: Collection[int], *, token: str, seconds: float
) -> None:
    """Give these events to the holder of `token` for `seconds`; touches no indexed column."""
    await connection.execute(
        update(OutboxEvent)
        .where(col(OutboxEvent.id).in_(ids))
        .values(lease_token=token, lease_until=database_now(seconds))
    )


async def complete(connection: AsyncConnection, ids: Collection[int], *, token: str) -> int:
    """Mark as published what `token` still holds; returns how many those were.

    The token is the fence: a relay that overslept its lease changes nothing here.
    """
    result = await connection.execute(
        update(OutboxEvent)
        .where(col(OutboxEvent.id).in_(ids), col(OutboxEvent.lease_token) == token)
        .values(published_at=database_now(), lease_token=None, lease_until=None)
    )
    return int(result.rowcount)


async def release(connection: AsyncConnection, ids: Collection[int], *, token: str) -> None:
    """Give back, untouched and at once, those of these events that `token` holds."""
    await connection.execute(
        update(OutboxEvent)
        .where(col(OutboxEvent.id).in_(ids), col(OutboxEvent.lease_token) == token)
        .values(lease_token=None, lease_until=None)
    )


async def retry_later(
    connection: AsyncConnection, event_id: int, *, token: str, delay: timedelta, error: str
) -> None:
    """Count a failed attempt and keep the event back for `delay`."""
    await connection.execute(
        update(OutboxEvent)
        .where(col(OutboxEvent.id) == event_id, col(OutboxEvent.lease_token) == token)
        .values(
            attempts=col(OutboxEvent.attempts) + 1,
            available_at=database_now(delay.total_seconds()),
            last_error=error,
            lease_token=None,
            lease_until=None,
        )
    )


async def park(connection: AsyncConnection, event_id: int, *, token: str, error: str) -> None:
    """Count the last attempt and set the event aside, with its reason, for an operator."""
    await connection.execute(
        update(OutboxEvent)
        .where(col(OutboxEvent.id) == event_id, col(OutboxEvent.lease_token) == token)
        .values(
            attempts=col(OutboxEvent.attempts) + 1,
            parked_at=database_now(),
            last_error=error,
            lease_token=None,
            lease_until=None,
        )
    )


async def measure_backlog(connection: AsyncConnection) -> Backlog:
    """Count what waits and what is parked, and how long the oldest waiting event has waited."""
    parked = col(OutboxEvent.parked_at).is_not(None)
    rows = await connection.execute(
        select(parked, func.count()).where(_UNPUBLISHED).group_by(parked)
    )
    counts = {bool(row[0]): row[1] for row in rows}
    oldest = await connection.execute(
        select(col(OutboxEvent.created_at), database_now())
        .where(*_WAITING)
        .order_by(col(OutboxEvent.id))
        .limit(1)
    )
    since, now = oldest.one_or_none() or (None, None)
    age = (now - since).total_seconds() if now and since else 0.0
    return Backlog(counts.get(False, 0), counts.get(True, 0), max(age, 0.0))


async def find_unsettled(connection: AsyncConnection, limit: int) -> list[UnsettledEvent]:
    """Events that are not published: the latest parked ones, then those that wait the longest.

    At most `limit` of each; `ix_outbox_waiting` has both in this order.
    """
    parked_at = col(OutboxEvent.parked_at)
    unpublished = select(*_UNSETTLED).where(col(OutboxEvent.published_at).is_(None))
    parked = unpublished.where(parked_at.is_not(None)).order_by(parked_at.desc()).limit(limit)
    waiting = unpublished.where(parked_at.is_(None)).order_by(col(OutboxEvent.id)).limit(limit)
    rows = await connection.execute(
        union_all(select(parked.subquery()), select(waiting.subquery()))
    )
    return [UnsettledEvent(*row) for row in rows]


async def find_purgeable(
    connection: AsyncConnection, *, retention: timedelta, limit: int
) -> list[int]:
    """Ids of events that were published longer ago than `retention`, oldest first."""
    rows = await connection.execute(
        select(col(OutboxEvent.id))
        .where(col(OutboxEvent.published_at) < database_now(-retention.total_seconds()))
        .order_by(col(OutboxEvent.published_at))
        .limit(limit)
    )
    return [row_id for row_id in rows.scalars() if row_id is not None]


async def delete_published(connection: AsyncConnection, ids: Collection[int]) -> int:
    """Delete these events where they are published; returns how many that were."""
    result = await connection.execute(
        delete(OutboxEvent).where(
            col(OutboxEvent.id).in_(ids), col(OutboxEvent.published_at).is_not(None)
        )
    )
    return int(result.rowcount)
