"""The corpus, sent to the service as a process on real servers, and everything that came of it.

What is heard on the queues and read from the tables is kept as it is; judging is the tests' part.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import urllib.request
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import aiormq
from aio_pika.abc import AbstractIncomingMessage
from aiormq import spec
from aiormq.exceptions import ChannelPreconditionFailed

from db.engine import Database
from db.models import DeadLetter, Order, OutboxEvent
from service.config.settings import Settings
from service.database import migrate, open_database
from service.rabbitmq.declaration import ensure
from service.rabbitmq.topology import Topology
from tests.faults.corpus.amqp import marshal
from tests.faults.corpus.case import Case, Dead, Repeated, Stored
from tests.faults.corpus.series import Series
from tests.harness import Wire, eventually, rows
from tests.patience import PATIENCE_SECONDS
from tests.processes import HOST, ServiceProcess, service_process
from tests.servers import AnyRabbit

INCOMING, PROCESSED, FAILED, DLQ = (
    "order_created_queue",
    "order_processed_queue",
    "order_failed_queue",
    "order_dlq",
)
SEED = 4
WINDOW = 200
# A valid order after so many messages of the corpus.
SPACING = 4
# Without any news. Then what is there is judged.
STALL_SECONDS = PATIENCE_SECONDS


class RawProperties(spec.Basic.Properties):
    """Property flags and bytes exactly as given."""

    raw: bytes = b""

    def marshal(self) -> bytes:
        return self.raw


@dataclass(frozen=True, slots=True)
class Heard:
    """What a queue held."""

    body: bytes
    headers: dict[str, Any]
    message_id: str | None
    correlation_id: str | None

    @classmethod
    def of(cls, message: AbstractIncomingMessage) -> Heard:
        return cls(message.body, message.headers, message.message_id, message.correlation_id)


@dataclass(frozen=True, slots=True, repr=False)
class Evidence:
    """What was sent, and what came of it."""

    sent: tuple[Case, ...]
    orders: list[Any]
    dead_letters: list[Any]
    events: list[Any]
    processed: list[Heard]
    failed: list[Heard]
    copies: list[Heard]
    left_over: int
    decided: int
    metrics: str
    lines: list[str]
    told: list[dict[str, Any]]
    links_before: set[str] | None
    links_after: set[str] | None
    exit_status: int

    def count(self, action: str) -> int:
        """How often the service has said this."""
        return sum(fields["message"] == action for fields in self.told)

    def expecting(self, *kinds: type[Stored | Repeated | Dead]) -> list[Case]:
        return [case for case in self.sent if isinstance(case.expected, kinds)]


def mixed(cases: Sequence[Case]) -> tuple[Case, ...]:
    """The cases in an order that is no order, always the same, with valid orders in between."""
    shuffled = list(cases)
    random.Random(SEED).shuffle(shuffled)
    plain = Series("plain")
    found: list[Case] = []
    for number, case in enumerate(shuffled):
        found.append(case)
        if number % SPACING == 0:
            found.append(plain.stored("a valid order", plain.order()))
    return tuple(found)


async def play(
    settings: Settings, rabbit: AnyRabbit, vhost: str, first: Sequence[Case], then: Sequence[Case]
) -> Evidence:
    """Send `first`, wait until it is done, send `then`; returns what became of both."""
    async with AsyncExitStack() as stack:
        database = open_database(settings)
        stack.push_async_callback(database.dispose)
        await migrate(database)
        return await _play(settings, database, partial(links, rabbit, vhost), first, then)


async def _play(
    settings: Settings,
    database: Database,
    our_links: Callable[[], set[str] | None],
    first: Sequence[Case],
    then: Sequence[Case],
) -> Evidence:
    with service_process(settings) as service:
        service.wait_for_status("/health/ready", 200)
        async with listening(settings) as wire:
            sent = await publish(wire, first)
            await done(wire, service, sent)
            before = await asyncio.to_thread(our_links)
            sent += await publish(wire, then)
            await done(wire, service, sent)
            after = await asyncio.to_thread(our_links)
            metrics = await asyncio.to_thread(exposed, service)
            left_over = await wire.depth(INCOMING)
            decided = await asyncio.to_thread(service.decided)
        with contextlib.suppress(TimeoutError):
            await eventually(lambda: nothing_pending(database))
        service.terminate()
        exit_status = service.wait()
    return Evidence(
        sent=tuple(sent),
        orders=await rows(database, Order),
        dead_letters=await rows(database, DeadLetter),
        events=await rows(database, OutboxEvent),
        processed=[Heard.of(message) for message in wire.heard[PROCESSED]],
        failed=[Heard.of(message) for message in wire.heard[FAILED]],
        copies=[Heard.of(message) for message in wire.heard[DLQ]],
        left_over=left_over,
        decided=decided,
        metrics=metrics,
        lines=service.lines,
        told=_told(service.lines),
        links_before=before,
        links_after=after,
        exit_status=exit_status,
    )


@asynccontextmanager
async def listening(settings: Settings, topology: Topology | None = None) -> AsyncIterator[Wire]:
    """Ears on the three queues that the service fills; `topology` is declared first."""
    async with Wire.connected(settings.broker) as wire:
        if topology is not None:
            await ensure(topology, wire.connection)
        await wire.listen(PROCESSED, FAILED, DLQ)
        yield wire


async def publish(wire: Wire, cases: Sequence[Case]) -> list[Case]:
    """Publish each, byte for byte, and wait for all confirms; returns what the broker has taken."""
    taken = [case for case in cases if case.may_be_refused and await _is_taken(wire, case)]
    channel = cast("aiormq.Channel", await wire.channel.get_underlay_channel())
    usual = [case for case in cases if not case.may_be_refused]
    for start in range(0, len(usual), WINDOW):
        await asyncio.gather(*(_send(channel, case) for case in usual[start : start + WINDOW]))
    return taken + usual


async def _is_taken(wire: Wire, case: Case) -> bool:
    """Publish it on a channel of its own, which the broker closes where it refuses."""
    channel = await wire.connection.channel()
    with contextlib.suppress(ChannelPreconditionFailed):
        await _send(cast("aiormq.Channel", await channel.get_underlay_channel()), case)
        await channel.close()
        return True
    return False


async def _send(channel: aiormq.Channel, case: Case) -> None:
    properties = RawProperties()
    properties.raw = marshal(case.properties)
    await channel.basic_publish(
        case.body, routing_key=INCOMING, properties=properties, mandatory=True
    )


async def done(wire: Wire, service: ServiceProcess, cases: Sequence[Case]) -> None:
    """Return once there is as much as there has to be, or nothing has come for a while."""
    orders = sum(isinstance(case.expected, Stored) for case in cases)
    dead = sum(isinstance(case.expected, Dead) for case in cases)
    expected = [orders, dead, dead, len(cases)]
    found: list[int] = []

    async def more() -> bool:
        nonlocal found
        before, found = found, [len(wire.heard[queue]) for queue in (PROCESSED, FAILED, DLQ)]
        found.append(await asyncio.to_thread(service.decided))
        return found != before

    with contextlib.suppress(TimeoutError):
        while found != expected:
            await eventually(more, within=STALL_SECONDS)


async def nothing_pending(database: Database) -> bool:
    """Whether each event is written down as published, which comes later than it is heard."""
    return all(event.published_at for event in await rows(database, OutboxEvent))


def links(rabbit: AnyRabbit, vhost: str) -> set[str] | None:
    """What is connected to the vhost, as the broker calls it; None where it is not ours to ask."""
    if not rabbit.private:
        return None
    listed = json.loads(rabbit.ctl("list_connections", "--formatter", "json", "pid", "vhost"))
    return {str(row["pid"]) for row in listed if row["vhost"] == vhost}


def exposed(service: ServiceProcess) -> str:
    """What /metrics says."""
    with urllib.request.urlopen(
        f"http://{HOST}:{service.port}/metrics", timeout=PATIENCE_SECONDS
    ) as answer:
        return str(answer.read().decode())


def _told(lines: Sequence[str]) -> list[dict[str, Any]]:
    """The service's own log."""
    found = []
    for line in lines:
        with contextlib.suppress(json.JSONDecodeError):
            fields = json.loads(line) if line.startswith("{") else {}
            if fields.get("logger") == "orders":
                found.append(fields)
    return found
