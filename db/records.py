"""What statements return, where it is more than a row: plain values, for decisions made of them."""

from __future__ import annotations

from typing import NamedTuple


class TakenOrder(NamedTuple):
    """What a stored order takes up: its id, its key, and its content's fingerprint."""

    order_id: str
    idempotency_key: str
    fingerprint: bytes


class Taken(NamedTuple):
    """Stored orders, and ids of orders that have an event which is not published."""

    orders: list[TakenOrder]
    waiting: set[str]
