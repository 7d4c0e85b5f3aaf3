"""The probes: what they say was asked of the real things a moment ago, never assumed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from db import outbox
from db.engine import Database
from service.database import try_writing
from service.driver_errors import explain_database
from service.observability import Metrics
from service.outbox.relay import Relay
from service.supervisor import Supervisor
from service.watchdog import Watch

# An answer is shared by whoever asks within this time: a probe must not become a load.
SHARED_SECONDS = 1.0
DATABASE_ANSWER_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Report:
    """What was found; `backlog` is None where it could not be counted in time."""

    database_up: bool
    backlog: outbox.Backlog | None
    broker_up: bool
    consuming: bool
    relay_alive: bool
    asked_at: float
    database_why: str | None = None


class Health:
    """Asks the database, the consumer and the relay, and answers over HTTP."""

    def __init__(
        self,
        database: Database,
        relay: Relay,
        supervisor: Supervisor,
        watch: Watch,
        metrics: Metrics,
        *,
        why_not_consuming: Callable[[], str | None],
        is_consuming: Callable[[], Awaitable[bool]],
        broker_lets_us_in: Callable[[], Awaitable[bool]],
        relay_stalled_seconds: float,
    ) -> None:
        self._database = database
        self._relay = relay
        self._supervisor = supervisor
        self._watch = watch
        self._why_not_consuming = why_not_consuming
        self._metrics = metrics
        self._is_consuming = is_consuming
        self._broker_lets_us_in = broker_lets_us_in
        self._relay_stalled_seconds = relay_stalled_seconds
        self._last: Report | None = None
        self._asking = asyncio.Lock()

    def routes(self) -> list[Route]:
        return [
            Route("/health", self.health),
            Route("/health/live", self.live),
            Route("/health/ready", self.ready),
            Route("/metrics", self.metrics),
        ]

    async def report(self) -> Report:
        """A report at most a second old."""
        async with self._asking:
            if self._last is None or time.monotonic() - self._last.asked_at > SHARED_SECONDS:
                (database_up, backlog, why), consuming = await asyncio.gather(
                    self._ask_database(), self._is_consuming()
                )
                # Without a database nothing is consumed, and that is not the broker's fault.
                broker_up = consuming or (not database_up and await self._broker_lets_us_in())
                self._last = Report(
                    database_up=database_up,
                    backlog=backlog,
                    broker_up=broker_up,
                    consuming=consuming,
                    relay_alive=self._relay_alive(),
                    asked_at=time.monotonic(),
                    database_why=why,
                )
            return self._last

    def expire(self) -> None:
        """Something failed that the last report may not know of: ask anew."""
        self._last = None

    async def health(self, _: Request) -> Response:
        report = await self.report()
        backlog = report.backlog
        ok = report.database_up and report.broker_up
        body: dict[str, Any] = {
            "status": "OK" if ok else "DEGRADED",
            "db": "connected" if report.database_up else "disconnected",
            "mq": "connected" if report.broker_up else "disconnected",
        }
        if report.database_why:
            body["why"] = {"db": report.database_why}
        if backlog is not None:
            body["outbox"] = {
                "pending": backlog.pending,
                "parked": backlog.parked,
                "oldestPendingSeconds": round(backlog.oldest_pending_seconds, 3),
            }
        return JSONResponse(body, 200 if ok else 503)

    async def ready(self, _: Request) -> Response:
        report, dead, stalled = await self.report(), self._dead, self._watch.stalled
        checks = {
            "broker": "consuming" if report.consuming else _because(self._why_not_consuming()),
            "database": "answering" if report.database_up else "not answering",
            "intake": "alive",
            "relay": "alive" if report.relay_alive else self._relay_stalled(),
        }
        checks |= stalled | dict.fromkeys(dead, "dead")
        moves = report.database_up and report.consuming and report.relay_alive
        ready = moves and not stalled and not dead
        return JSONResponse(
            {"status": "READY" if ready else "NOT_READY", **checks}, 200 if ready else 503
        )

    async def live(self, _: Request) -> Response:
        dead = self._dead
        return JSONResponse(
            {"status": "DEAD" if dead else "ALIVE", "dead": dead}, 503 if dead else 200
        )

    async def metrics(self, _: Request) -> Response:
        report = await self.report()
        self._metrics.consuming.set(report.consuming)
        self._metrics.database_up.set(report.database_up)
        self._metrics.broker_up.set(report.broker_up)
        if report.backlog:
            self._metrics.outbox_pending.set(report.backlog.pending)
            self._metrics.outbox_parked.set(report.backlog.parked)
            self._metrics.outbox_oldest.set(report.backlog.oldest_pending_seconds)
        return Response(self._metrics.exposed(), media_type=CONTENT_TYPE_LATEST)

    async def _ask_database(self) -> tuple[bool, outbox.Backlog | None, str | None]:
        """Whether it answers, the backlog, and why not: a long one may take longer than we wait.

        A file answers if it takes writes: from a full or read-only disk it could still be read.
        """
        answered = False
        try:
            async with asyncio.timeout(DATABASE_ANSWER_SECONDS), AsyncExitStack() as stack:
                if self._database.is_file:
                    await try_writing(self._database)
                link = await stack.enter_async_context(self._database.reading())
                await link.execute(select(1))
                answered = True
                return answered, await outbox.measure_backlog(link), None
        except (SQLAlchemyError, TimeoutError, OSError) as error:
            return answered, None, None if answered else explain_database(error)

    @property
    def _dead(self) -> list[str]:
        """What this process cannot heal by itself any more."""
        return sorted({*self._supervisor.dead, *self._watch.hopeless})

    def _relay_stalled(self) -> str:
        waits_for = self._relay.waits_for
        return f"stalled: it waits for {waits_for}" if waits_for else "stalled"

    def _relay_alive(self) -> bool:
        last = self._relay.last_success
        return last is not None and time.monotonic() - last < self._relay_stalled_seconds


def _because(why: str | None) -> str:
    return f"not consuming: {why}" if why else "not consuming"
