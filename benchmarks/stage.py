"""Where a measurement takes place: real servers, and on them a vhost and a database of its own.

with Servers.found() as servers:
    async with Stage.on(servers) as stage:
        await stage.preload(messages("a", 1000))
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import aio_pika
import pymysql
from aio_pika.abc import AbstractChannel, AbstractConnection
from pydantic import SecretStr

from benchmarks.workload import order_id
from service.config.settings import Settings
from service.database import migrate, open_database
from service.rabbitmq.declaration import ensure
from service.rabbitmq.topology import Topology
from tests.processes import environment_of
from tests.servers import AnyDatabase, AnyRabbit, find_database, find_rabbitmq

PRELOAD_WINDOW = 500
# The tests' small server has 64 MiB, less than the outboxes that are measured here.
BUFFER_POOL_BYTES = 1 << 30
READ_CHANNEL_PREFETCH = 2000


class Wrong(Exception):  # noqa: N818 - what it says of a contestant
    """A contestant did not do the work, so what was measured of it means nothing."""


class Depth(NamedTuple):
    """Of a queue: messages that are ready, and consumers."""

    ready: int
    consumers: int


class Counters(NamedTuple):
    """What a database server has done since it was started."""

    select: int
    insert: int
    update: int
    delete: int
    commit: int
    handler_commit: int
    questions: int

    @property
    def statements(self) -> int:
        return self.select + self.insert + self.update + self.delete

    def since(self, earlier: Counters) -> Counters:
        return Counters(*(now - then for now, then in zip(self, earlier, strict=True)))


_COUNTERS = tuple(
    name if name in {"questions", "handler_commit"} else f"com_{name}" for name in Counters._fields
)


@dataclass(frozen=True)
class Servers:
    """The servers of a run."""

    database: AnyDatabase
    rabbit: AnyRabbit

    @classmethod
    @contextmanager
    def found(cls) -> Iterator[Servers]:
        """Private ones, as durable as in production, or those that TEST_…_URL name."""
        servers = cls(find_database(), find_rabbitmq())
        with ExitStack() as running:
            with ThreadPoolExecutor() as pool:
                both = (servers.database, servers.rabbit)
                for started in [pool.submit(running.enter_context, each) for each in both]:
                    started.result()
            if servers.database.private:
                servers.database.execute(
                    f"SET GLOBAL innodb_buffer_pool_size = {BUFFER_POOL_BYTES}"
                )
            yield servers


class Stage:
    """Queues, tables, and what the measuring side does with them."""

    def __init__(self, settings: Settings, channel: AbstractChannel, link: Link) -> None:
        self.settings = settings
        self.topology = Topology.of(settings)
        self._channel = channel
        self.link = link

    @classmethod
    @asynccontextmanager
    async def on(cls, servers: Servers) -> AsyncIterator[Stage]:
        """A vhost, a database and queue names that nobody has used before; gone afterwards."""
        name = f"bench_{secrets.token_hex(4)}"
        settings = Settings(
            environment="development",
            database_url=SecretStr(await asyncio.to_thread(servers.database.create_database, name)),
            mq_url=SecretStr(await asyncio.to_thread(servers.rabbit.create_vhost, name)),
            incoming_order_queue=f"{name}_created",
            outgoing_processed_queue=f"{name}_processed",
            outgoing_failed_queue=f"{name}_failed",
            dlq_queue=f"{name}_dlq",
            events_exchange=f"{name}_events",
        )
        database = open_database(settings)
        await migrate(database)
        await database.dispose()
        link = Link(settings)
        try:
            async with await aio_pika.connect(settings.broker) as connection:
                await ensure(Topology.of(settings), connection)
                channel = await connection.channel(publisher_confirms=False)
                yield cls(settings, channel, link)
                await _remove(connection, Topology.of(settings))
        finally:
            link.close()
            await asyncio.to_thread(servers.database.drop_database, name)
            await asyncio.to_thread(servers.rabbit.delete_vhost, name)

    @property
    def environment(self) -> dict[str, str]:
        """What a contestant is told."""
        return environment_of(self.settings)

    async def depth(self, queue: str) -> Depth:
        """As the queue's leader says, just now."""
        declared = (await self._channel.declare_queue(queue, passive=True)).declaration_result
        return Depth(declared.message_count or 0, declared.consumer_count or 0)

    async def incoming(self) -> Depth:
        return await self.depth(self.topology.incoming.name)

    async def processed(self) -> int:
        return (await self.depth(self.topology.processed.name)).ready

    async def preload(self, bodies: Iterable[bytes]) -> int:
        """Publish to the incoming queue, each message confirmed; returns how many."""
        count = 0
        remaining = iter(bodies)
        async with await aio_pika.connect(self.settings.broker) as connection:
            channel = await connection.channel(on_return_raises=True)
            while window := list(islice(remaining, PRELOAD_WINDOW)):
                await asyncio.gather(
                    *(
                        channel.default_exchange.publish(
                            order_created(body), self.topology.incoming.name
                        )
                        for body in window
                    )
                )
                count += len(window)
        return count

    async def drain(self) -> list[bytes]:
        """Take everything off the outgoing queue."""
        bodies: list[bytes] = []
        async with await aio_pika.connect(self.settings.broker) as connection:
            channel = await connection.channel()
            await channel.set_qos(READ_CHANNEL_PREFETCH)
            queue = await channel.get_queue(self.topology.processed.name, ensure=False)
            expected = await self.processed()
            if not expected:
                return bodies
            async with queue.iterator(no_ack=True, timeout=30) as iterator:
                async for message in iterator:
                    bodies.append(message.body)
                    if len(bodies) >= expected:
                        break
        return bodies

    async def empty(self) -> int:
        """Throw away what is on the outgoing queue; returns how many messages those were."""
        queue = await self._channel.get_queue(self.topology.processed.name, ensure=False)
        return (await queue.purge()).message_count or 0

    async def state(self) -> str:
        """Where everything is, for an error's text."""
        depths = [
            f"{each.name}: {(await self.depth(each.name)).ready}" for each in self.topology.queues
        ]
        rows = f"orders: {self.link.orders()}, unpublished: {self.link.waiting()}"
        return "\n".join([*depths, rows])

    async def check(self, events: list[bytes], series: dict[str, int], *, stored: bool) -> None:
        """Check that each order of these series had its effect, exactly once.

        Raises:
            Wrong: something is missing, or there twice.
        """
        expected = {order_id(each, n) for each, count in series.items() for n in range(count)}
        published = [_processed_order(body) for body in events]
        if len(published) != len(set(published)):
            raise Wrong(f"{len(published) - len(set(published))} events were published again")
        if set(published) != expected:
            missing = len(expected - set(published))
            raise Wrong(f"{missing} of {len(expected)} orders have no OrderProcessed")
        for queue in (self.topology.incoming, self.topology.failed, self.topology.dead_letters):
            if left := (await self.depth(queue.name)).ready:
                raise Wrong(f"{left} messages are left on {queue.name}")
        if stored and (orders := self.link.orders()) != len(expected):
            raise Wrong(f"{orders} orders are stored of {len(expected)}")
        if stored and (waiting := self.link.waiting()):
            raise Wrong(f"{waiting} events still wait in the outbox")


class Link:
    """A connection of the measuring side to the database, used while nothing is timed."""

    def __init__(self, settings: Settings) -> None:
        parts = urlsplit(str(settings.database.render_as_string(hide_password=False)))
        self._connection = pymysql.connect(
            host=parts.hostname or "127.0.0.1",
            port=parts.port or 3306,
            user=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
            database=parts.path.lstrip("/"),
            autocommit=True,
        )

    def close(self) -> None:
        self._connection.close()

    def ask(self, sql: str) -> list[tuple[object, ...]]:
        with self._connection.cursor() as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    def number(self, sql: str) -> int:
        return int(str(self.ask(sql)[0][0]))

    def counters(self) -> Counters:
        names = ", ".join(f"'{name}'" for name in _COUNTERS)
        rows = self.ask(f"SHOW GLOBAL STATUS WHERE Variable_name IN ({names})")
        found = {str(name).lower(): int(str(value)) for name, value in rows}
        return Counters(*(found[name] for name in _COUNTERS))

    def orders(self) -> int:
        return self.number("SELECT COUNT(*) FROM orders")

    def waiting(self) -> int:
        return self.number("SELECT COUNT(*) FROM outbox WHERE published_at IS NULL")

    def settled(self) -> bool:
        return not self.ask("SELECT 1 FROM outbox WHERE published_at IS NULL LIMIT 1")


def order_created(body: bytes) -> aio_pika.Message:
    return aio_pika.Message(
        body,
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        type="OrderCreated",
    )


def _processed_order(body: bytes) -> str:
    event = json.loads(body)
    if event["status"] != "PROCESSED":
        raise Wrong(f"an event's status is {event['status']!r}")
    return str(event["orderId"])


async def _remove(connection: AbstractConnection, topology: Topology) -> None:
    """Of a vhost that is lent to us, only what is ours goes."""
    async with connection.channel() as channel:
        for queue in topology.queues:
            await channel.queue_delete(queue.name)
        await channel.exchange_delete(topology.exchange)
