"""Statements on `orders`. Nothing here commits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import (
    BindParameter,
    CompoundSelect,
    bindparam,
    func,
    insert,
    null,
    select,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from db.models import Order, OutboxEvent
from db.records import Taken, TakenOrder
from db.types import json_length


class LatestOrder(NamedTuple):
    """What a list of orders shows of one; `lines` is how many items it has."""

    order_id: str
    total_amount: Decimal
    lines: int
    created_at: datetime


_COLUMNS = (col(Order.order_id), col(Order.idempotency_key), col(Order.fingerprint))
_KEYS: BindParameter[str] = bindparam("keys", expanding=True)
_IDS: BindParameter[str] = bindparam("ids", expanding=True)
# The indexes are named because the optimizer goes by statistics, which a young table outruns: by
# old ones it reads all of it. An event that waits is told from an order by its lack of a key.
TAKEN: CompoundSelect[Any] = union_all(
    select(*_COLUMNS)
    .with_hint(Order, "FORCE INDEX (uq_orders_idempotency_key)", "mysql")
    .where(col(Order.idempotency_key).in_(_KEYS)),
    select(*_COLUMNS)
    .with_hint(Order, "FORCE INDEX (PRIMARY)", "mysql")
    .where(col(Order.order_id).in_(_IDS)),
    select(col(OutboxEvent.aggregate_id), null(), null())
    .distinct()
    .with_hint(OutboxEvent, "FORCE INDEX (ix_outbox_aggregate)", "mysql")
    .where(
        col(OutboxEvent.aggregate_id).in_(_IDS),
        col(OutboxEvent.aggregate_type) == "order",
        col(OutboxEvent.published_at).is_(None),
    ),
)
_INSERT = insert(Order)


async def find_taken(
    connection: AsyncConnection, *, idempotency_keys: Collection[str], order_ids: Collection[str]
) -> Taken:
    """What is stored under these keys and ids; an order may come twice."""
    rows = await connection.execute(TAKEN, {"keys": idempotency_keys, "ids": order_ids})
    orders, waiting = list[TakenOrder](), set[str]()
    for row in rows:
        if row[1] is None:
            waiting.add(row[0])
        else:
            orders.append(TakenOrder(*row))
    return Taken(orders, waiting)


async def insert_orders(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert all rows together; the driver makes as few statements of it as fit."""
    await connection.execute(_INSERT, rows)


async def count_orders(connection: AsyncConnection) -> int:
    return (await connection.execute(select(func.count()).select_from(Order))).scalar_one()


async def latest_orders(connection: AsyncConnection, limit: int) -> list[LatestOrder]:
    """The latest orders, newest first; as many index entries are read, however many are stored."""
    created_at, order_id = col(Order.created_at), col(Order.order_id)
    rows = await connection.execute(
        select(order_id, col(Order.total_amount), json_length(col(Order.items)), created_at)
        .order_by(created_at.desc(), order_id.desc())
        .limit(limit)
    )
    return [LatestOrder(*row) for row in rows]
