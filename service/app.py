"""All wiring, once, for production and for tests. `app` is what `faststream run` runs."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from faststream.asgi import AsgiFastStream
from faststream.rabbit import TestRabbitBroker
from faststream.security import SASLPlaintext
from faststream.specification.schema import License
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from yarl import URL

from service.broker import ServiceBroker
from service.completing import Completion
from service.console import console_routes
from service.documents import document_routes
from service.documents.contract import Contract
from service.errors import ConfigurationError, SchemaBehindError
from service.events import Events
from service.garbage import collect_seldom
from service.handover import Handover
from service.health import Health
from service.intake import Intake
from service.publishing import ConfirmingPublisher, InProcessPublisher, Publisher
from service.purging import Purge
from service.relay import Relay
from service.settings import Settings, load_settings
from service.storage import check_schema, migrate, open_database, wait_for_database
from service.subscribers import incoming_queue, make_router
from service.supervision import Supervisor
from service.telemetry import Action, Metrics, configure_logging, log
from service.tolerance import tolerate_unreadable_properties
from service.topology import Topology

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

# What a relay has at hand when it is told to stop. What takes longer, the lease gives to others.
RELAY_GRACE_SECONDS = 5.0

DESCRIPTION = """\
Every OrderCreated message ends, exactly once in effect, as one stored order and one
OrderProcessed, or as one dead letter with its reason and one OrderFailed; nothing is lost in
between, whatever dies. Delivery is at least once: a repeated event has the same message id.
"""


class ServiceApp(AsgiFastStream):
    """FastStream's ASGI application, with ordinary web routes beside it."""

    service: Service
    web: Starlette

    async def not_found(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.web(scope, receive, send)

    async def lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        """FastStream's; but why the service refuses to start is said without a traceback."""

        async def tell(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "lifespan.startup.failed" and self.service.refusal:
                message = {**message, "message": self.service.refusal}
            await send(message)

        await super().lifespan(scope, receive, tell)


class Service:
    """The parts of one service process, wired."""

    def __init__(self, settings: Settings) -> None:
        tolerate_unreadable_properties()
        self.settings = settings
        self.topology = Topology.of(settings)
        self.metrics = Metrics()
        self.supervisor = Supervisor()
        self.refusal: str | None = None
        self._embedded_running = False
        self._waits_for_database = asyncio.Lock()
        self.database = open_database(settings)
        self.broker = _make_broker(settings, self.topology)
        self.publisher = self._publisher()
        self.handover = Handover(
            capacity=settings.relay_batch_size, lease_seconds=settings.relay_lease_seconds
        )
        self.relay = Relay(
            self.database,
            self.publisher,
            self.metrics,
            self.handover,
            completion=Completion(
                self.database, self.metrics, max_attempts=settings.relay_max_attempts
            ),
            purge=Purge(
                self.database,
                retention=timedelta(hours=settings.outbox_retention_hours),
                interval_seconds=settings.purge_interval_seconds,
                batch_size=settings.purge_batch_size,
            ),
            batch_size=settings.relay_batch_size,
            lease_seconds=settings.relay_lease_seconds,
            poll_seconds=settings.relay_poll_seconds,
        )
        self.intake = Intake(
            self.database,
            Events(self.topology),
            self.metrics,
            batch_size=settings.intake_batch_size,
            handover=self.handover,
            large=self._publisher(),
        )
        self.broker.include_router(
            make_router(self.topology, self.intake, prefetch_count=settings.prefetch_count)
        )
        self.health = Health(
            self.database,
            self.relay,
            self.supervisor,
            self.metrics,
            is_consuming=self._is_consuming,
            broker_lets_us_in=self.broker.reachable,
            relay_stalled_seconds=settings.relay_poll_seconds + settings.db_timeout_seconds,
        )

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        """Everything that runs beside the web server, from start to the end of draining."""
        settings = self.settings
        log(
            Action.STARTING,
            version=version("order-service"),
            mode="embedded" if settings.embedded else "servers",
            database=settings.database_name,
            broker=settings.broker_name,
        )
        for warning in settings.warnings():
            log(Action.CONFIGURATION, logging.WARNING, warning=warning)
        if settings.embedded_database:
            await migrate(self.database)
        else:
            await self._refuse_old_schema()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close)
            if settings.embedded_broker:
                await stack.enter_async_context(TestRabbitBroker(self.broker, connect_only=True))
                self._embedded_running = True
            else:
                self.supervisor.start("consumer", self._consume)
            self.supervisor.start("intake", self.intake.run)
            self.supervisor.start("relay", self._relay)
            stack.push_async_callback(self._stop_tasks)
            yield

    async def stop_consuming(self) -> None:
        """At shutdown, before the broker is stopped: give back what cannot be stored now."""
        await self.supervisor.stop("consumer")
        if self.intake.away_since is not None:
            self.intake.abandon()

    async def _stop_tasks(self) -> None:
        self.relay.stop()
        grace = RELAY_GRACE_SECONDS if self.relay.busy else 0
        await self.supervisor.stop("relay", grace_seconds=grace)
        await self.supervisor.stop("intake")

    async def _close(self) -> None:
        await self.intake.close()
        await self.database.dispose()
        log(Action.STOPPED)

    async def _is_consuming(self) -> bool:
        return self._embedded_running or await self.broker.answers()

    def _publisher(self) -> Publisher:
        settings = self.settings
        if settings.embedded_broker:
            return InProcessPublisher(self.broker)
        return ConfirmingPublisher(
            _broker_url(settings, "orders relay"),
            self.topology,
            tls=settings.broker_tls(),
            connect_timeout_seconds=settings.mq_connect_timeout_seconds,
            heartbeat_seconds=settings.mq_heartbeat_seconds,
            publish_timeout_seconds=settings.publish_timeout_seconds,
        )

    async def _consume(self) -> None:
        await self.broker.attend(prepare=self._prepare, trouble=self._trouble)

    async def _relay(self) -> None:
        await self._database_ready()
        await self.relay.run()

    async def _prepare(self) -> None:
        # There is no link, so what was at hand is the broker's again. Given back while there is
        # one, it would come again at once, and each time count towards the delivery limit.
        self.intake.abandon()
        await self._database_ready()
        self.intake.resume()

    async def _database_ready(self) -> None:
        try:
            # Two tasks need it; one asks at a time, and tells of it.
            async with self._waits_for_database:
                await wait_for_database(self.database, self.settings.database_name)
        except SchemaBehindError as error:
            if self.refusal is None:
                self.refusal = str(error)
                log(Action.SCHEMA_BEHIND, logging.CRITICAL, why=self.refusal)
                os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()

    def _trouble(self) -> str | None:
        away = self.intake.away_since
        if away is None or time.monotonic() - away < self.settings.outage_hold_seconds:
            return None
        # The broker keeps the messages meanwhile. Held here for longer, they would be taken from us
        # after 30 minutes, each time counting towards the delivery limit.
        return "the database is away"

    async def _refuse_old_schema(self) -> None:
        """Where the database answers at start, an old schema ends the start."""
        try:
            await check_schema(self.database)
        except SchemaBehindError as error:
            self.refusal = f"The service cannot start: {error}."
            raise SystemExit(self.refusal) from None
        except (SQLAlchemyError, TimeoutError, OSError):
            return  # away: waited for, and told of, once we run


def create_app(settings: Settings) -> ServiceApp:
    """The application: subscribers, relay, probes, documents. Nothing is connected before it runs.

    `app.service` has its parts. Run it with `faststream run`, or in a test with
    `async with app.start_lifespan_context()`.
    """
    service = Service(settings)
    app = ServiceApp(
        service.broker,
        lifespan=service.lifespan,
        on_shutdown=[service.stop_consuming],
        logger=None,
        specification=Contract(
            title="Order service",
            version=version("order-service"),
            description=DESCRIPTION,
            license=License(name="Apache-2.0", url="https://www.apache.org/licenses/LICENSE-2.0"),
        ),
    )
    app.service = service
    console = console_routes(
        settings, service.database, service.broker, service.health, service.metrics
    )
    app.web = Starlette(routes=[*service.health.routes(), *document_routes(app), *console])
    return app


def _make_broker(settings: Settings, topology: Topology) -> ServiceBroker:
    url = URL(settings.broker)
    return ServiceBroker(
        _broker_url(settings, "orders consumer"),
        broker_name=settings.broker_name,
        incoming=incoming_queue(topology),
        topology=topology,
        connect_timeout_seconds=settings.mq_connect_timeout_seconds,
        stop_timeout_seconds=settings.shutdown_timeout_seconds,
        security=SASLPlaintext(
            username=url.user or "guest",
            password=(url.password or "") if url.user else "guest",
            ssl_context=settings.broker_tls(),
            use_ssl=url.scheme == "amqps",
        ),
        # Written out, or this deployment's address would stand in the contract.
        specification_url="amqp://rabbitmq:5672/",
        protocol="amqp",
        description="RabbitMQ. In production over TLS (amqps), with a user for this service alone.",
    )


def _broker_url(settings: Settings, name: str) -> str:
    return str(
        URL(settings.broker).update_query(heartbeat=str(settings.mq_heartbeat_seconds), name=name)
    )


def __getattr__(name: str) -> Any:
    """`app`, made when it is asked for: importing this module reads no environment."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        settings = load_settings()
    except ConfigurationError as error:
        raise SystemExit(str(error)) from None
    configure_logging(settings.log_level, settings.log_format)
    globals()["app"] = create_app(settings)
    collect_seldom()
    return globals()["app"]
