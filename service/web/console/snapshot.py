"""What the page shows, gathered at most once a second however many look at it.

Per gathering: what the probes found (shared with them), three statements that read a few index
entries each, and one question to the broker. Row counts are not among it: see `Totals`.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from db import dead_letters, orders, outbox
from db.engine import Database
from service.config.settings import Settings
from service.observability import Metrics
from service.outbox.envelope import new_id
from service.rabbitmq.broker import ServiceBroker
from service.web.health import DATABASE_ANSWER_SECONDS, SHARED_SECONDS, Health, Report

LATEST = 15
UNSETTLED = 6
# Counting reads an index from end to end. It may take this share of the time and no more: where a
# count takes 3 ms it is at most a second old, where it takes 300 ms half a minute.
COUNTING_SHARE = 0.01

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Counted:
    """Row counts at one moment."""

    orders: int
    reasons: dict[str, int]
    at: datetime

    def as_json(self) -> Json:
        return {
            "orders": self.orders,
            "deadLetters": sum(self.reasons.values()),
            "reasons": self.reasons,
            "countedAt": self.at.isoformat(),
        }


class Totals:
    """Row counts, exact, and counted again as often as that stays cheap."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._last: Counted | None = None
        self._due = 0.0

    async def get(self) -> Counted | None:
        """The last count; None where none has come to its end in time so far."""
        started = time.monotonic()
        if started < self._due:
            return self._last
        try:
            async with asyncio.timeout(DATABASE_ANSWER_SECONDS), self._database.reading() as link:
                self._last = Counted(
                    orders=await orders.count_orders(link),
                    reasons=await dead_letters.count_by_reason(link),
                    at=datetime.now(UTC),
                )
        except (SQLAlchemyError, TimeoutError, OSError):
            pass  # the last count stays, and says how old it is
        finished = time.monotonic()
        self._due = finished + max(SHARED_SECONDS, (finished - started) / COUNTING_SHARE)
        return self._last

    def expire(self) -> None:
        """Something is new: count at the next occasion, unless counting is dear."""
        if self._due - time.monotonic() <= SHARED_SECONDS:
            self._due = 0.0


class Snapshots:
    """Gathers the page's data and shares it between those who ask within a second."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        broker: ServiceBroker,
        health: Health,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._database = database
        self._broker = broker
        self._health = health
        self._metrics = metrics
        self._totals = Totals(database)
        self._process = {"id": new_id(), "startedAt": datetime.now(UTC).isoformat()}
        self._last: Json = {}
        self._gathered_at: float | None = None
        self._gathering = asyncio.Lock()

    async def data(self, _: Request) -> Response:
        async with self._gathering:
            now = time.monotonic()
            if self._gathered_at is None or now - self._gathered_at > SHARED_SECONDS:
                self._last = await self._gather()
                self._gathered_at = time.monotonic()
            return JSONResponse(self._last, headers={"cache-control": "no-store"})

    def expire(self) -> None:
        """Something is new: whoever asks next shall see it."""
        self._gathered_at = None
        self._health.expire()
        self._totals.expire()

    async def _gather(self) -> Json:
        report = await self._health.report()
        counted = await self._totals.get() if report.database_up else None
        return {
            "at": datetime.now(UTC).isoformat(),
            **self._described(),
            "status": {
                "broker": report.consuming,
                "database": report.database_up,
                "relay": report.relay_alive,
            },
            "waiting": await self._waiting(),
            "process": self._process | self._counters(),
            "totals": counted.as_json() if counted else None,
            "outbox": _backlog(report),
            "latest": await self._latest() if report.database_up else None,
        }

    async def _waiting(self) -> int | None:
        # The in-process broker has no queue: it delivers to the handler at once.
        return 0 if self._settings.embedded_broker else await self._broker.waiting()

    def _described(self) -> Json:
        settings = self._settings
        return {
            "version": version("order-service"),
            "mode": "embedded" if settings.embedded else "servers",
            "broker": settings.broker_name,
            "database": settings.database_name,
            "queue": settings.incoming_order_queue,
            "exchange": settings.events_exchange,
            "sending": settings.embedded_broker,
        }

    def _counters(self) -> Json:
        """What this process did since it started; other processes count for themselves."""
        value = self._metrics.registry.get_sample_value
        outcomes = {
            outcome: int(value("orders_messages_total", {"outcome": outcome}) or 0)
            for outcome in ("accepted", "duplicate", "dead_lettered", "repeated")
        }
        return {
            "received": sum(outcomes.values()),
            "repeated": outcomes["duplicate"] + outcomes["repeated"],
            "published": int(value("orders_relay_published_total") or 0),
        }

    async def _latest(self) -> Json | None:
        try:
            async with asyncio.timeout(DATABASE_ANSWER_SECONDS), self._database.reading() as link:
                return {
                    "orders": [_order(each) for each in await orders.latest_orders(link, LATEST)],
                    "deadLetters": [
                        _dead_letter(each)
                        for each in await dead_letters.latest_dead_letters(link, LATEST)
                    ],
                    "events": [
                        _event(each) for each in await outbox.find_unsettled(link, UNSETTLED)
                    ],
                }
        except (SQLAlchemyError, TimeoutError, OSError):
            return None


def _backlog(report: Report) -> Json | None:
    if report.backlog is None:
        return None
    return {
        "pending": report.backlog.pending,
        "parked": report.backlog.parked,
        "oldestPendingSeconds": round(report.backlog.oldest_pending_seconds, 3),
    }


def _order(order: orders.LatestOrder) -> Json:
    return {
        "id": order.order_id,
        # Text: a JSON number would pass through a float in the browser.
        "amount": f"{order.total_amount:.2f}",
        "lines": order.lines,
        "at": order.created_at.isoformat(),
    }


def _dead_letter(letter: dead_letters.LatestDeadLetter) -> Json:
    return {
        "id": letter.dead_letter_id,
        "orderId": letter.order_id,
        "reason": letter.reason,
        "details": letter.details,
        "at": letter.received_at.isoformat(),
    }


def _event(event: outbox.UnsettledEvent) -> Json:
    return {
        "type": event.event_type,
        "aggregate": f"{event.aggregate_type} {event.aggregate_id}",
        "attempts": event.attempts,
        "error": event.last_error,
        "parked": event.parked_at is not None,
        "at": event.created_at.isoformat(),
    }
