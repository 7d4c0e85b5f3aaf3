"""Where a fault takes place: servers, service processes, a steady load, and an observer.

async with Stage.open(folder, StageOptions(rate=100)) as stage:
    stage.producer.resume()
    await stage.services.kill(0)
    await stage.services.start(0)
    await stage.at_rest()
    verdict = await stage.verdict()
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

import pymysql

from tests.faults.checker import Depth, History, check
from tests.faults.journal import Attempt, Confirmed, Journal, Observed
from tests.faults.link import LINK_FAILURES, connect
from tests.faults.observer import QUEUE as OBSERVER_QUEUE
from tests.faults.observer import Observer
from tests.faults.producer import Producer
from tests.faults.services import Services, run_services
from tests.faults.setting import EXCHANGE, INCOMING, OUTPUTS, Servers, StageOptions, home, in_thread
from tests.faults.tables import Database
from tests.faults.verdict import Verdict
from tests.faults.workload import Kind, OfKind, Workload
from tests.patience import PATIENCE_SECONDS
from tests.servers import AnyDatabase, AnyRabbit, ServersError
from tests.servers.server import PrivateServer

AT_ONCE_PER_SECOND = 1000.0
REST_SECONDS = 300.0
RECOVERY_SECONDS = PATIENCE_SECONDS
PORT_SECONDS = 240.0
PORT_POLL_SECONDS = 0.02
POLL_SECONDS = 0.1
DEFAULT_OPTIONS = StageOptions()
WRONG_TAG = b"unknown delivery tag"
UNAVAILABLE = (pymysql.MySQLError, OSError)


class Rest(NamedTuple):
    """Whether nothing is in flight any more, what still is, and how long that took in seconds."""

    reached: bool
    waiting: str
    seconds: float


@dataclass(frozen=True)
class Journals:
    attempts: Journal[Attempt]
    confirmed: Journal[Confirmed]
    observed: Journal[Observed]

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator[Self]:
        async with (
            Journal[Attempt].open(folder / "attempts.jsonl") as attempts,
            Journal[Confirmed].open(folder / "confirmed.jsonl") as confirmed,
            Journal[Observed].open(folder / "observed.jsonl") as observed,
        ):
            yield cls(attempts, confirmed, observed)

    def history(self) -> History:
        confirmed = frozenset(each.attempt_id for each in self.confirmed.records)
        return History(tuple(self.attempts.records), confirmed, tuple(self.observed.records))


@dataclass(frozen=True)
class Stage:
    """One database, one vhost, N service processes, one producer, one observer."""

    options: StageOptions
    folder: Path
    servers: Servers
    vhost: str
    mq_url: str
    tables: Database
    journals: Journals
    services: Services
    producer: Producer
    observer: Observer
    broker_log_start: int = 0
    """Bytes of the broker's log that are of others before."""
    seeds: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    """Of what `send()` sends; a stage's own load has the seed of its options."""
    held_since: dict[str, float] = field(default_factory=dict)
    """By queue, since when some message has been unacknowledged, on the monotonic clock."""

    @classmethod
    @asynccontextmanager
    async def open(
        cls, folder: Path, options: StageOptions = DEFAULT_OPTIONS, servers: Servers | None = None
    ) -> AsyncIterator[Self]:
        """Everything runs and nothing is published yet. Journals and logs stay in `folder`.

        Servers that are given are used and left running; else it starts its own, and ends them.
        """
        folder.mkdir(parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            if servers is None:
                servers = await stack.enter_async_context(in_thread(Servers.private()))
            name = f"faults_{secrets.token_hex(4)}"
            urls = await stack.enter_async_context(in_thread(home(servers, name)))
            journals = await stack.enter_async_context(Journals.open(folder))
            observer = Observer(urls.broker, EXCHANGE, journals.observed)
            await stack.enter_async_context(observer.running())
            services = await stack.enter_async_context(run_services(folder, options, servers, urls))
            producer = Producer(
                urls.broker,
                INCOMING,
                Workload(options.seed, options.mix),
                rate=options.rate,
                attempts=journals.attempts,
                confirmed=journals.confirmed,
            )
            await stack.enter_async_context(producer.running())
            # That a queue exists must be on disk before the broker may be killed.
            await asyncio.to_thread(servers.broker.settle)
            yield cls(
                options=options,
                folder=folder,
                servers=servers,
                vhost=name,
                mq_url=urls.broker,
                tables=Database(urls.database),
                journals=journals,
                services=services,
                producer=producer,
                observer=observer,
                broker_log_start=_log_size(servers.broker),
            )

    async def send(self, kind: Kind, count: int = 1) -> None:
        """At least so many of one kind, at once; returns when they are confirmed."""
        producer = Producer(
            self.mq_url,
            INCOMING,
            OfKind(self.options.seed + next(self.seeds), kind),
            rate=AT_ONCE_PER_SECOND,
            attempts=self.journals.attempts,
            confirmed=self.journals.confirmed,
        )
        async with producer.running():
            producer.resume()
            await producer.produced_at_least(count)
            producer.pause()
            await producer.all_confirmed()

    @property
    def database(self) -> AnyDatabase:
        return self.servers.database

    @property
    def broker(self) -> AnyRabbit:
        return self.servers.broker

    # Coming back.

    async def start(self, *servers: AnyDatabase | AnyRabbit) -> float:
        """Start servers that were killed or stopped, together; returns when the last port opened.

        The moment is of this machine's clock, in seconds since 1970.
        """
        opened, _ = await asyncio.gather(
            asyncio.gather(*(_port_opens(server) for server in servers)),
            asyncio.gather(*(asyncio.to_thread(server.start) for server in servers)),
        )
        return max(opened)

    async def first_order_after(self, moment: float, within: float = RECOVERY_SECONDS) -> float:
        """Seconds from then, by this machine's clock, to the first order processed after it.

        Raises:
            TimeoutError: none was.
        """
        since = datetime.fromtimestamp(moment, UTC).replace(tzinfo=None)
        async with asyncio.timeout(within):
            while True:
                with suppress(*UNAVAILABLE):
                    last = await asyncio.to_thread(self.tables.last_processed)
                    if last is not None and last > since:
                        return time.time() - moment
                await asyncio.sleep(POLL_SECONDS / 2)

    async def recovery(self, *servers: AnyDatabase | AnyRabbit) -> float:
        """Start these servers again; seconds from the last port to the first order after it."""
        return await self.first_order_after(await self.start(*servers))

    async def heal(self) -> None:
        """Whatever was done to them, all servers and processes run again."""
        for server in (self.database, self.broker):
            await asyncio.to_thread(server.revive)
        for number in range(self.options.processes):
            if number in self.services.running:
                self.services.thaw(number)
            else:
                await self.services.start(number, ready=False)

    # At rest.

    async def at_rest(self, within: float = REST_SECONDS) -> Rest:
        """Pause the producer and wait until nothing is in flight."""
        started = time.monotonic()
        self.held_since.clear()
        waiting = "inputs that are not confirmed"
        try:
            async with asyncio.timeout(within):
                self.producer.pause()
                await self.producer.all_confirmed()
                while waiting := await self._waiting():
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            return Rest(False, waiting, time.monotonic() - started)
        return Rest(True, "", time.monotonic() - started)

    async def verdict(self, *, parks: bool = False) -> Verdict:
        """Judge all that was done on this stage so far; meant at rest."""
        tables = await asyncio.to_thread(self.tables.read)
        depths = [each for each in await self.depths() if each.queue in {INCOMING, OBSERVER_QUEUE}]
        history = self.journals.history()
        return await asyncio.to_thread(check, history, tables, depths, parks=parks)

    def wrong_acknowledgements(self) -> int:
        """How often the broker closed a channel for acknowledging what was not to be.

        A process that acknowledges twice, or on another channel, gets all it holds once more. The
        effects hide that; the broker's log tells it.
        """
        if not isinstance(self.broker, PrivateServer):
            return 0
        return self.broker.log.read_bytes()[self.broker_log_start :].count(WRONG_TAG)

    async def depths(self) -> list[Depth]:
        """All queues, as the broker sees them."""
        columns = ("name", "messages_ready", "messages_unacknowledged")
        said = await asyncio.to_thread(
            self.broker.ctl, "list_queues", "--vhost", self.vhost, "--formatter", "json", *columns
        )
        return [self._depth(*(queue[column] for column in columns)) for queue in json.loads(said)]

    def _depth(self, queue: str, ready: int, unacknowledged: int) -> Depth:
        now = time.monotonic()
        if unacknowledged:
            since = self.held_since.setdefault(queue, now)
        else:
            since = now
            self.held_since.pop(queue, None)
        return Depth(queue, ready, unacknowledged, now - since)

    async def empty_outputs(self) -> None:
        """Purge the service's own output queues, which nobody consumes here."""
        async with await connect(self.mq_url) as connection:
            channel = await connection.channel()
            for name in OUTPUTS:
                queue = await channel.get_queue(name, ensure=False)
                await queue.purge()

    async def _waiting(self) -> str:
        """What is still in flight, the cheapest questions first; nothing at rest."""
        try:
            if ready := await self._ready():
                return f"{ready} messages in {INCOMING}"
            backlog = await asyncio.to_thread(self.tables.backlog)
            if backlog.pending:
                return f"{backlog.pending} pending events"
            if not self.observer.listening.is_set():
                return "the observer has no link"
            missing = backlog.events - backlog.parked - self.observer.heard
            if missing > 0:
                return f"{missing} events that were not observed"
            return ", ".join(
                str(each)
                for each in await self.depths()
                if each.unacknowledged or (each.ready and each.queue not in OUTPUTS)
            )
        except (*UNAVAILABLE, *LINK_FAILURES, ServersError) as error:
            return f"a server does not answer ({type(error).__name__})"

    async def _ready(self) -> int:
        async with await connect(self.mq_url) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue(INCOMING, passive=True)
            return queue.declaration_result.message_count or 0


def _log_size(server: AnyRabbit) -> int:
    return server.log.stat().st_size if isinstance(server, PrivateServer) else 0


async def _port_opens(server: AnyDatabase | AnyRabbit) -> float:
    async with asyncio.timeout(PORT_SECONDS):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(server.host, server.port)
                moment = time.time()
                writer.close()
                return moment
            await asyncio.sleep(PORT_POLL_SECONDS)
