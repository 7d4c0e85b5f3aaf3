"""All wiring, once, for production and for tests. `app` is what `faststream run` runs."""

from __future__ import annotations

import asyncio
import contextlib
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
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from yarl import URL

from db.engine import GIVE_BACK_SECONDS
from db.schema import ForeignTablesError
from service.config.hosts import Hosts, parse_names
from service.config.settings import Settings, load_settings
from service.consumer.acknowledgements import AtHand
from service.consumer.batcher import Intake
from service.consumer.flow_control import BUDGET, hold_within_budgets
from service.consumer.recorded import Recorded
from service.consumer.subscriber import incoming_queue, make_router
from service.database import check_schema, migrate, open_database, try_writing, wait_for_database
from service.doctor.management import find_neighbours
from service.domain.errors import (
    ConfigurationError,
    SchemaBehindError,
    TopologyRefusedError,
    UnusableFileError,
)
from service.driver_errors import explain_database
from service.gc_tuning import collect_seldom
from service.inline import Inline
from service.observability import Action, Metrics, configure_logging, log
from service.outbox.cleaner import Purge
from service.outbox.completer import Completer
from service.outbox.envelope import Events
from service.outbox.handover import Handover
from service.outbox.publisher import ConfirmingPublisher, InProcessPublisher, Publisher
from service.outbox.relay import Relay
from service.rabbitmq.broker import SILENCE_SECONDS, ServiceBroker
from service.rabbitmq.properties import tolerate_unreadable_properties
from service.rabbitmq.topology import CONSUMER_NAME, Topology
from service.supervisor import Supervisor
from service.watchdog import Watch, Watched
from service.web.asyncapi import document_routes
from service.web.asyncapi.contract import Contract
from service.web.connections import Limits
from service.web.console import console_routes
from service.web.health import Health
from service.web.requests import Gate
from service.web.server import serve_with
from service.web.workers import end_as_workers_ended

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

# How the time to end is shared out: SHUTDOWN_TIMEOUT_SECONDS is the bound of the whole. Handlers
# finish first, then the link is left, then the relay publishes what they have stored.
DRAIN_SHARE, LEAVE_SHARE, RELAY_SHARE, CLOSE_SHARE = 0.5, 0.1, 0.2, 0.1
# Added to the deadlines of what a part waits for, before it counts as standing still.
STALL_SPARE_SECONDS = 15.0
DEFAULT_PORTS = {"amqp": 5672, "amqps": 5671}


class ServiceApp(AsgiFastStream):
    """FastStream's ASGI application, with ordinary web routes beside it."""

    service: Service
    web: Starlette
    gate: Gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await (self.answer if scope["type"] == "lifespan" else self.gate)(scope, receive, send)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What came through the gate."""
        await super().__call__(scope, receive, send)

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
        hold_within_budgets()
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
            completer=Completer(
                self.database,
                self.metrics,
                max_attempts=settings.relay_max_attempts,
                batch_size=settings.relay_batch_size,
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
        self.recorded = Recorded(self.database)
        self.intake = Intake(
            self.database,
            Events(self.topology),
            self.metrics,
            batch_size=settings.intake_batch_size,
            handover=self.handover,
            recorded=self.recorded,
            large=self._publisher(),
            senders_wait=settings.embedded_broker,
        )
        self.at_hand = AtHand()
        self.inline = Inline(
            self.intake,
            self.relay,
            self.database,
            prepare=self._prepare_tables,
            publishes=settings.embedded_broker,
        )
        self.broker.include_router(
            make_router(
                self.topology,
                self.inline.submit,
                self.at_hand,
                prefetch_count=settings.prefetch_count,
            )
        )
        self.watch = Watch(self._watched())
        self.health = Health(
            self.database,
            self.relay,
            self.supervisor,
            self.watch,
            self.metrics,
            why_not_consuming=lambda: self.broker.waits_for,
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
        await self._prepare_tables()
        if not settings.embedded_broker:
            await self._refuse_topology()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close)
            if settings.embedded_broker:
                await stack.enter_async_context(TestRabbitBroker(self.broker, connect_only=True))
                self._embedded_running = True
            else:
                self.supervisor.start("consumer", self._consume)
                if settings.mq_management_url is not None:
                    looking = asyncio.create_task(self._tell_neighbours())
                    stack.callback(looking.cancel)
            self.inline.in_background = True
            self.supervisor.start("intake", self.intake.run)
            self.supervisor.start("relay", self._relay)
            self.supervisor.start("recorded", self.recorded.run)
            self.supervisor.start("watch", self.watch.run)
            stack.push_async_callback(self._stop_tasks)
            yield

    async def stop_consuming(self) -> None:
        """At shutdown, before the broker is stopped: give back what cannot be stored now."""
        await self.supervisor.stop("watch")
        await self.supervisor.stop("consumer")
        if self.intake.away_since is not None:
            self.intake.abandon()

    def _watched(self) -> list[Watched]:
        """What the watch looks after: each limit is above the deadlines of what the part awaits."""
        settings, spare = self.settings, STALL_SPARE_SECONDS
        transaction = settings.db_timeout_seconds + GIVE_BACK_SECONDS
        publication = settings.relay_lease_seconds / 2 + settings.publish_timeout_seconds
        held = settings.outage_hold_seconds + 2 * transaction + settings.publish_timeout_seconds

        async def renew_link() -> None:
            self.broker.renew("a message was not settled in time")

        return [
            Watched(
                "consumer",
                2 * settings.mq_connect_timeout_seconds + SILENCE_SECONDS + spare,
                lambda: (
                    None if settings.embedded_broker or self.broker.preparing else self.broker.turns
                ),
                lambda: self.supervisor.restart("consumer"),
            ),
            Watched("deliveries", held + spare, lambda: self.at_hand.oldest, renew_link),
            Watched(
                "intake",
                transaction + spare,
                lambda: self.intake.attempts if self.intake.batch_in_hand else None,
                lambda: self.supervisor.restart("intake"),
            ),
            Watched(
                "relay",
                max(publication, transaction, settings.relay_poll_seconds) + spare,
                lambda: self.relay.steps if self.relay.running else None,
                lambda: self.supervisor.restart("relay"),
            ),
        ]

    async def _stop_tasks(self) -> None:
        self.inline.in_background = False
        await self.supervisor.stop("watch")
        # Before the relay, which still publishes what the last commit hands over.
        await self.supervisor.stop("intake")
        self.relay.stop()
        grace = self.settings.shutdown_timeout_seconds * RELAY_SHARE if self.relay.busy else 0
        await self.supervisor.stop("relay", grace_seconds=grace)
        await self.supervisor.stop("recorded")

    async def _close(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.settings.shutdown_timeout_seconds * CLOSE_SHARE):
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
            publish_timeout_seconds=settings.publish_timeout_seconds,
        )

    async def _consume(self) -> None:
        try:
            await self.broker.attend(prepare=self._prepare, trouble=self._trouble)
        except TopologyRefusedError as error:
            await self._end(Action.TOPOLOGY_REFUSED, str(error))

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
            await self._end(Action.SCHEMA_BEHIND, str(error))

    async def _end(self, action: Action, why: str) -> None:
        """End the process for a reason that no waiting mends; never returns."""
        if self.refusal is None:
            self.refusal = why
            log(action, logging.CRITICAL, why=why)
            os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    def _trouble(self) -> str | None:
        away = self.intake.away_since
        if away is None or time.monotonic() - away < self.settings.outage_hold_seconds:
            return None
        # The broker keeps the messages meanwhile. Held here for longer, they would be taken from us
        # after 30 minutes, each time counting towards the delivery limit.
        return "the database is away"

    async def _prepare_tables(self) -> None:
        if self.settings.embedded_database:
            await self._prepare_file()
        else:
            await self._refuse_old_schema()

    async def _prepare_file(self) -> None:
        """An SQLite file that cannot be used ends the start."""
        try:
            await migrate(self.database)
            await try_writing(self.database)
        except (UnusableFileError, ForeignTablesError) as error:
            why = str(error)
        except (SQLAlchemyError, TimeoutError, OSError) as error:
            why = explain_database(error)
        else:
            return
        await self.database.dispose()
        end = "" if why.endswith("?") else "."
        name = self.settings.database_name
        self.refusal = f"The service cannot start. {name}: {why} (SQLITE_PATH){end}"
        raise SystemExit(self.refusal)

    async def _refuse_old_schema(self) -> None:
        """Where the database answers at start, an old schema ends the start."""
        try:
            await check_schema(self.database)
        except SchemaBehindError as error:
            self.refusal = f"The service cannot start: {error}."
            raise SystemExit(self.refusal) from None
        except (SQLAlchemyError, TimeoutError, OSError):
            return  # away: waited for, and told of, once we run

    async def _refuse_topology(self) -> None:
        """Where the broker answers at start, what cannot be used there ends the start."""
        try:
            await self.broker.examine()
        except TopologyRefusedError as error:
            await self.database.dispose()
            self.refusal = f"The service cannot start: {error}."
            raise SystemExit(self.refusal) from None

    async def _tell_neighbours(self) -> None:
        for database in await find_neighbours(self.settings):
            log(
                Action.NEIGHBOUR,
                logging.WARNING,
                database=database,
                own=self.settings.database_name,
            )


def create_app(settings: Settings) -> ServiceApp:
    """The application: subscribers, relay, probes, documents. Nothing is connected before it runs.

    `app.service` has its parts. Run it with `faststream run`, or in a test with
    `async with app.start_lifespan_context()`.
    """
    service = Service(settings)
    contract = Contract(
        title="Order service",
        version=version("order-service"),
        license=License(name="Apache-2.0", url="https://www.apache.org/licenses/LICENSE-2.0"),
    )
    contract.topology = service.topology
    app = ServiceApp(
        service.broker,
        lifespan=service.lifespan,
        on_shutdown=[service.stop_consuming],
        logger=None,
        specification=contract,
    )
    app.service = service
    console = console_routes(
        settings, service.database, service.broker, service.health, service.metrics
    )
    app.web = _web([*service.health.routes(), *document_routes(app, _server(settings)), *console])
    hosts = Hosts(parse_names(settings.web_hosts), private=not settings.embedded_broker)
    app.gate = Gate(app.answer, hosts)
    serve_with(Limits(settings.web_connections, settings.web_exchange_seconds))
    return app


def _web(routes: list[BaseRoute]) -> Starlette:
    paths = {route.path for route in routes if isinstance(route, Route)}

    async def elsewhere(request: Request, _: Exception) -> Response:
        """A slash too many leads to the page, by a relative address: `Host` is its sender's."""
        path = request.url.path
        if path.endswith("/") and path[:-1] in paths:
            return RedirectResponse(f"../{path[:-1].rpartition('/')[2]}")
        return PlainTextResponse("Not Found", 404)

    web = Starlette(routes=routes, exception_handlers={404: elsewhere})
    web.router.redirect_slashes = False
    return web


def _make_broker(settings: Settings, topology: Topology) -> ServiceBroker:
    url = URL(settings.broker)
    budget = {BUDGET: str(settings.prefetch_mebibytes * 1024 * 1024)}
    return ServiceBroker(
        str(
            URL(_broker_url(settings, CONSUMER_NAME + settings.database_name)).update_query(budget)
        ),
        broker_name=settings.broker_name,
        incoming=incoming_queue(topology),
        topology=topology,
        connect_timeout_seconds=settings.mq_connect_timeout_seconds,
        drain_seconds=settings.shutdown_timeout_seconds * DRAIN_SHARE,
        leave_seconds=settings.shutdown_timeout_seconds * LEAVE_SHARE,
        security=SASLPlaintext(
            username=url.user or "guest",
            password=(url.password or "") if url.user else "guest",
            ssl_context=settings.broker_tls(),
            use_ssl=url.scheme == "amqps",
        ),
        # Written out, or this deployment's address would stand in the contract.
        specification_url="amqp://rabbitmq:5672/",
        protocol="amqp",
    )


def _server(settings: Settings) -> dict[str, Any] | None:
    """This deployment's broker, for its page alone; no password, and no user."""
    if settings.embedded_broker:
        return None
    url = URL(settings.broker)
    return {
        "host": f"{url.raw_host}:{url.port or DEFAULT_PORTS[url.scheme]}",
        "pathname": url.raw_path or "/",
        "protocol": url.scheme,
        "protocolVersion": "0.9.1",
        "description": "The RabbitMQ of this deployment.",
        "security": [{"$ref": "#/components/securitySchemes/user-password"}],
    }


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
    end_as_workers_ended()
    collect_seldom()
    return globals()["app"]
