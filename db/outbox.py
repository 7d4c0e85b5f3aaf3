"""Statements on `outbox`. Nothing here commits. Time is the database's clock throughout."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Integer,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    union_all,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased
from sqlmodel import col

from db.failures import LOCK_NOWAIT, LOCK_WAIT_TIMEOUT, error_number
from db.models import OutboxEvent
from db.types import database_now, microseconds


class ClaimedEvent(NamedTuple):
    """What is needed to publish an event, and how often that was tried before."""

    event_id: str
    event_type: str
    aggregate_type: str
    aggregate_id: str
    exchange: str
    routing_key: str
    payload: bytes
    content_type: str | None
    correlation_id: str | None
    headers: dict[str, Any]
    attempts: int = 0

    @property
    def aggregate(self) -> tuple[str, str]:
        return self.aggregate_type, self.aggregate_id


class Neighbours(NamedTuple):
    """Of some events, by their ids: which have an unpublished one of their aggregate before them,
    and which have one behind them."""

    preceded: set[str]
    followed: set[str]


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


# Named for the optimizer, which may read a small table as a whole: that would wait for every row
# that another relay is writing.
_BY_EVENT_ID = "FORCE INDEX (uq_outbox_event_id)"
_BY_AGGREGATE = "FORCE INDEX (ix_outbox_aggregate)"
# Which of the two indexes that begin with `published_at` is meant: this one holds no wide id.
_BY_WAITING = "FORCE INDEX (ix_outbox_waiting)"
_THESE = col(OutboxEvent.event_id).in_(bindparam("these", expanding=True))
_HELD = (_THESE, col(OutboxEvent.lease_token) == bindparam("holder"))
_FREE = {"lease_token": None, "lease_until": None}
_ADD = insert(OutboxEvent)
_UPDATE = update(OutboxEvent).with_hint(_BY_EVENT_ID, dialect_name="mysql")
RELEASE = _UPDATE.where(*_HELD).values(_FREE)
_STORED = select(col(OutboxEvent.event_id)).where(_THESE)
COMPLETE = RELEASE.values(published_at=database_now())
_FAIL = RELEASE.values(attempts=col(OutboxEvent.attempts) + 1, last_error=bindparam("error"))


async def add_events(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert all rows together; the driver makes as few statements of it as fit.

    A row with a `lease_token` is that holder's from birth, until its lease time has gone by since
    `created_at`.
    """
    await connection.execute(_ADD, rows)


def _free() -> ColumnElement[bool]:
    """Not parked, not kept back, and leased to nobody, or to nobody any more."""
    available_at, lease_until = col(OutboxEvent.available_at), col(OutboxEvent.lease_until)
    leased_at_birth_and_over = and_(
        lease_until.is_(None),
        col(OutboxEvent.created_at) < database_now(bindparam("minus_lease")),
    )
    return and_(
        col(OutboxEvent.parked_at).is_(None),
        or_(available_at.is_(None), available_at <= database_now()),
        or_(
            col(OutboxEvent.lease_token).is_(None),
            lease_until < database_now(),
            leased_at_birth_and_over,
        ),
    )


# On the condition that they still are free: where a claim's locks were lost (a server that rolls a
# transaction back when one of its statements has to wait), another relay may have them by now.
LEASE = _UPDATE.where(_THESE, _UNPUBLISHED, _free()).values(
    lease_token=bindparam("holder"), lease_until=database_now(bindparam("lease"))
)


def _another(which: Callable[[Any, Any], ColumnElement[bool]]) -> ColumnElement[bool]:
    """Whether the aggregate has another unpublished event, the id of which compares like this."""
    other = aliased(OutboxEvent)
    return (
        select(col(other.id))
        .where(
            col(other.aggregate_id) == col(OutboxEvent.aggregate_id),
            col(other.aggregate_type) == col(OutboxEvent.aggregate_type),
            col(other.published_at).is_(None),
            which(col(other.id), col(OutboxEvent.id)),
        )
        .with_hint(other, _BY_AGGREGATE, "mysql")
        .exists()
    )


_EARLIER, _LATER = _another(operator.lt), _another(operator.gt)


def _claimable() -> Select[Any]:
    return (
        select(*_CLAIMED)
        .with_hint(OutboxEvent, _BY_WAITING, "mysql")
        .where(_UNPUBLISHED, _free(), ~_EARLIER)
        .order_by(col(OutboxEvent.id))
        .limit(bindparam("most", type_=Integer))
        .with_for_update(skip_locked=True)
    )


# Both indexes are named because the optimizer goes by statistics, which an outbox outruns: by old
# ones it compares each candidate with every waiting event (400,000 published and 5,000 waiting
# events on MySQL 9.7: a million rows read for a claim of 200, against 800).
CLAIMABLE = _claimable()


async def lock_claimable(
    connection: AsyncConnection, limit: int, *, lease_seconds: float
) -> list[ClaimedEvent]:
    """Lock the oldest events that may be published now, passing over what others have locked.

    `lease_seconds` is how long an event that was leased at birth stays its holder's.

    Of one aggregate only the earliest unpublished event qualifies, parked ones included: that is
    how events of one aggregate keep their order. But what is locked is read as it is, and what
    comes before it as it was when the statement began: ask `find_neighbours` about the result.
    """
    rows = await connection.execute(
        CLAIMABLE, {"most": limit, "minus_lease": microseconds(-lease_seconds)}
    )
    return [ClaimedEvent(*row) for row in rows]


NEIGHBOURS = (
    select(col(OutboxEvent.event_id), _EARLIER, _LATER)
    .with_hint(OutboxEvent, _BY_EVENT_ID, "mysql")
    .where(_THESE)
)


async def find_neighbours(connection: AsyncConnection, event_ids: Collection[str]) -> Neighbours:
    """Which of these locked events is not the first of its aggregate, and which not the last.

    A statement of its own sees all that was committed together with what is locked.
    """
    rows = list(await connection.execute(NEIGHBOURS, {"these": event_ids}))
    return Neighbours({row[0] for row in rows if row[1]}, {row[0] for row in rows if row[2]})


# In the order of the index: what is read is what is returned, and no more is locked.
FOLLOWERS = (
    select(*_CLAIMED, _free().label("free"))
    .with_hint(OutboxEvent, _BY_AGGREGATE, "mysql")
    .where(
        col(OutboxEvent.aggregate_id).in_(bindparam("aggregate_ids", expanding=True)),
        _UNPUBLISHED,
    )
    .order_by(
        col(OutboxEvent.published_at),
        col(OutboxEvent.aggregate_id),
        col(OutboxEvent.aggregate_type),
        col(OutboxEvent.id),
    )
    .limit(bindparam("most", type_=Integer))
    .with_for_update(nowait=True)
)


async def lock_followers(
    connection: AsyncConnection,
    claimed: Collection[ClaimedEvent],
    limit: int,
    *,
    lease_seconds: float,
) -> list[ClaimedEvent]:
    """Lock what stands behind claimed events in their aggregates, up to `limit` in all.

    Of each aggregate an unbroken run: it ends before an event that is parked, kept back or leased.
    Nobody else can claim these, since the earliest of each aggregate is locked by the caller; but
    where somebody is writing one of them, none is locked, and none is waited for.
    """
    parameters = {
        "aggregate_ids": {each.aggregate_id for each in claimed},
        "most": limit + len(claimed),
        "minus_lease": microseconds(-lease_seconds),
    }
    try:
        rows = await connection.execute(FOLLOWERS, parameters)
    except DBAPIError as error:
        if error_number(error) in {LOCK_NOWAIT, LOCK_WAIT_TIMEOUT}:
            return []
        raise
    heads = {each.event_id for each in claimed}
    open_aggregates = {each.aggregate for each in claimed}
    found: list[ClaimedEvent] = []
    for *values, free in rows:
        event = ClaimedEvent(*values)
        if not free:
            open_aggregates.discard(event.aggregate)
        elif event.aggregate in open_aggregates and event.event_id not in heads:
            found.append(event)
    return found


async def lease(
    connection: AsyncConnection, event_ids: Collection[str], *, token: str, seconds: float
) -> int:
    """Give those of these events that are free to the holder of `token` for `seconds`.

    Returns how many those were; touches no indexed column.
    """
    result = await connection.execute(
        LEASE,
        {
            "these": event_ids,
            "holder": token,
            "lease": microseconds(seconds),
            "minus_lease": microseconds(-seconds),
        },
    )
    return int(result.rowcount)


async def find_stored(connection: AsyncConnection, event_ids: Collection[str]) -> set[str]:
    """Which of these events are stored, published or not."""
    rows = await connection.execute(_STORED, {"these": event_ids})
    return set(rows.scalars())


async def find_published(connection: AsyncConnection, event_ids: Collection[str]) -> set[str]:
    """Which of these events are published, by this relay or another."""
    rows = await connection.execute(
        _STORED.where(col(OutboxEvent.published_at).is_not(None)), {"these": event_ids}
    )
    return set(rows.scalars())


async def delete_trial(connection: AsyncConnection, event_id: str) -> None:
    """Delete an event that was stored in this very transaction."""
    await connection.execute(delete(OutboxEvent).where(col(OutboxEvent.event_id) == event_id))


async def complete(connection: AsyncConnection, event_ids: Collection[str], *, token: str) -> int:
    """Mark as published what `token` still holds; returns how many those were.

    The token is the fence: a relay that overslept its lease changes nothing here.
    """
    result = await connection.execute(COMPLETE, {"these": event_ids, "holder": token})
    return int(result.rowcount)


async def release(connection: AsyncConnection, event_ids: Collection[str], *, token: str) -> None:
    """Give back, untouched and at once, those of these events that `token` holds."""
    await connection.execute(RELEASE, {"these": event_ids, "holder": token})


async def defer(
    connection: AsyncConnection, event_ids: Collection[str], *, token: str, delay: timedelta
) -> None:
    """Keep these events back for `delay`; no attempt is counted."""
    await connection.execute(
        RELEASE.values(available_at=database_now(delay.total_seconds())),
        {"these": event_ids, "holder": token},
    )


async def retry_later(
    connection: AsyncConnection, event_id: str, *, token: str, delay: timedelta, error: str
) -> None:
    """Count a failed attempt and keep the event back for `delay`."""
    await connection.execute(
        _FAIL.values(available_at=database_now(delay.total_seconds())),
        {"these": [event_id], "holder": token, "error": error},
    )


async def park(connection: AsyncConnection, event_id: str, *, token: str, error: str) -> None:
    """Count the last attempt and set the event aside, with its reason, for an operator."""
    await connection.execute(
        _FAIL.values(parked_at=database_now()),
        {"these": [event_id], "holder": token, "error": error},
    )


async def measure_backlog(connection: AsyncConnection) -> Backlog:
    """Count what waits and what is parked, and how long the oldest waiting event has waited."""
    parked = col(OutboxEvent.parked_at).is_not(None)
    rows = await connection.execute(
        select(parked, func.count())
        .with_hint(OutboxEvent, _BY_WAITING, "mysql")
        .where(_UNPUBLISHED)
        .group_by(parked)
    )
    counts = {bool(row[0]): row[1] for row in rows}
    oldest = await connection.execute(
        select(col(OutboxEvent.created_at), database_now())
        .with_hint(OutboxEvent, _BY_WAITING, "mysql")
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
    unpublished = (
        select(*_UNSETTLED).with_hint(OutboxEvent, _BY_WAITING, "mysql").where(_UNPUBLISHED)
    )
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
        .with_hint(OutboxEvent, _BY_WAITING, "mysql")
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
