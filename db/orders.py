"""Statements on `orders`. Nothing here commits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import func, insert, select, union_all
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from db.models import Order
from db.records import TakenOrder
from db.types import json_length


class LatestOrder(NamedTuple):
    """What a list of orders shows of one; `lines` is how many items it has."""

    order_id: str
    total_amount: Decimal
    lines: int
    created_at: datetime


_TAKEN = (col(Order.order_id), col(Order.idempotency_key), col(Order.fingerprint))


async def find_taken(
    connection: AsyncConnection, *, idempotency_keys: Collection[str], order_ids: Collection[str]
) -> list[TakenOrder]:
    """Stored orders that have one of these keys or one of these ids; an order may come twice."""
    by_key = select(*_TAKEN).where(col(Order.idempotency_key).in_(idempotency_keys))
    by_id = select(*_TAKEN).where(col(Order.order_id).in_(order_ids))
    rows = await connection.execute(union_all(by_key, by_id))
    return [TakenOrder(*row) for row in rows]


async def insert_orders(connection: AsyncConnection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert all rows together; the driver makes as few statements of it as fit."""
    await connection.execute(insert(Order), list(rows))


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
