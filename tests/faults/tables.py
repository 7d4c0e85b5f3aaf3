"""What the tables hold, read by statements of its own on a connection of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any
from urllib.parse import unquote, urlsplit

import pymysql
from pymysql.cursors import Cursor

LINK_SECONDS = 60


@dataclass(frozen=True, slots=True)
class OrderRow:
    order_id: str
    user_id: str
    total_amount: Decimal
    status: str
    key: str
    items: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class OutboxRow:
    event_id: str
    type: str
    payload_digest: str
    payload_bytes: int
    published: bool
    parked: bool


@dataclass(frozen=True, slots=True)
class DeadLetterRow:
    """`trace` is the correlation id that the message carried, else its message id."""

    dead_letter_id: str
    reason: str
    body_digest: str
    body_bytes: int
    trace: str | None


@dataclass(frozen=True, slots=True)
class Tables:
    orders: list[OrderRow]
    outbox: list[OutboxRow]
    dead_letters: list[DeadLetterRow]
    returned: list[str] = field(default_factory=list)
    """The ids of the service's own events that came back to it, one for each record."""


ORDERS = "SELECT order_id, user_id, total_amount, status, idempotency_key, items FROM orders"
OUTBOX = """
    SELECT event_id, event_type, SHA2(payload, 256), LENGTH(payload),
           published_at IS NOT NULL, parked_at IS NOT NULL
    FROM outbox ORDER BY id"""
DEAD_LETTERS = """
    SELECT dead_letter_id, reason, SHA2(body, 256), LENGTH(body), properties FROM dead_letters"""
WAITING = """
    SELECT COUNT(*), SUM(published_at IS NULL AND parked_at IS NULL), SUM(parked_at IS NOT NULL)
    FROM outbox"""
OLDEST_PENDING = """
    SELECT MIN(created_at) FROM outbox WHERE published_at IS NULL AND parked_at IS NULL"""
EVENTS = ("OrderProcessed", "OrderFailed")
LAST_PROCESSED = """
    SELECT created_at FROM outbox WHERE event_type = 'OrderProcessed' ORDER BY id DESC LIMIT 1"""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Rows of the outbox: all, those that wait, those that are set aside."""

    events: int
    pending: int
    parked: int


class Database:
    """One database, asked over a new connection each time: none outlives a server."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._arguments: dict[str, Any] = {
            "host": parts.hostname,
            "port": parts.port,
            "user": unquote(parts.username or ""),
            "password": unquote(parts.password or ""),
            "database": unquote(parts.path.removeprefix("/")),
        }

    def read(self) -> Tables:
        """All rows, as one snapshot."""
        with self._cursor() as cursor:
            cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
            orders = [_order(row) for row in _rows(cursor, ORDERS)]
            events = [_event(row) for row in _rows(cursor, OUTBOX)]
            records = [(row, _json(row[-1])) for row in _rows(cursor, DEAD_LETTERS)]
            return Tables(
                orders,
                events,
                [_dead_letter(row, sent) for row, sent in records if not _is_event(sent)],
                [sent["message_id"] for _, sent in records if _is_event(sent)],
            )

    def backlog(self) -> Backlog:
        with self._cursor() as cursor:
            ((events, pending, parked),) = _rows(cursor, WAITING)
        return Backlog(int(events), int(pending or 0), int(parked or 0))

    def last_processed(self) -> datetime | None:
        """When the last order became an event, by the server's clock, in UTC without a zone."""
        with self._cursor() as cursor:
            return next((row[0] for row in _rows(cursor, LAST_PROCESSED)), None)

    def oldest_pending(self) -> datetime | None:
        """When the oldest event that waits was stored, by the server's clock, in UTC."""
        with self._cursor() as cursor:
            return next((row[0] for row in _rows(cursor, OLDEST_PENDING)), None)

    def order_ids(self) -> set[str]:
        with self._cursor() as cursor:
            return {row[0] for row in _rows(cursor, "SELECT order_id FROM orders")}

    @contextmanager
    def _cursor(self) -> Iterator[Cursor]:
        link = pymysql.connect(
            **self._arguments,
            autocommit=True,
            connect_timeout=LINK_SECONDS,
            read_timeout=LINK_SECONDS,
        )
        with link, link.cursor() as cursor:
            yield cursor


def _rows(cursor: Cursor, statement: str) -> Any:
    cursor.execute(statement)
    return cursor.fetchall()


def _order(row: Any) -> OrderRow:
    order_id, user_id, total_amount, status, key, items = row
    return OrderRow(order_id, user_id, total_amount, status, key, _json(items))


def _event(row: Any) -> OutboxRow:
    event_id, kind, payload_digest, payload_bytes, published, parked = row
    return OutboxRow(event_id, kind, payload_digest, payload_bytes, bool(published), bool(parked))


def _is_event(sent: dict[str, Any]) -> bool:
    """Whether a message with these properties is an event of an order service."""
    return sent.get("app_id") == "order-service" and sent.get("type") in EVENTS


def _dead_letter(row: Any, sent: dict[str, Any]) -> DeadLetterRow:
    dead_letter_id, reason, body_digest, body_bytes, _ = row
    trace = sent.get("correlation_id") or sent.get("message_id")
    return DeadLetterRow(dead_letter_id, reason, body_digest, body_bytes, trace)


def _json(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)
