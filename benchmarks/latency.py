"""From publishing OrderCreated to receiving OrderProcessed, at constant rates, as an open loop.

Each message has the moment at which it is due. It is sent then, whatever became of those before it,
and its latency counts from then, even where sending was late: a contestant that stands still for a
second makes all messages of that second late, not only one (no coordinated omission). An
independent consumer on a connection of its own receives the events.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import aio_pika
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

from benchmarks.contestants import Contestant, Running
from benchmarks.measure import until_consuming, until_settled
from benchmarks.stage import Servers, Stage, Wrong, order_created
from benchmarks.workload import messages, order_id

LOADS = (0.25, 0.5, 0.75)
WARM_UP_SECONDS = 3.0
ARRIVAL_SECONDS = 60.0
MILLI = 1000
MICRO = 1_000_000


@dataclass(frozen=True)
class Latency:
    """One measurement at one rate, in milliseconds."""

    contestant: str
    load: float
    rate: float
    orders: int
    p50: float
    p95: float
    p99: float
    longest: float
    cpu_microseconds: float
    """Of the contestant, per order: where messages trickle in, batches are small."""
    sender_late_p99: float
    """How late the measuring side itself sent: where this is much, the rest means little."""


async def latencies(
    servers: Servers,
    contestant: Contestant,
    capacity: float,
    *,
    seconds: float,
    warm_up_seconds: float = WARM_UP_SECONDS,
) -> list[Latency]:
    """Measure at each load, one after the other, one start of the contestant for all.

    Raises:
        Wrong: not every order had its effect exactly once.
    """
    found = []
    series: dict[str, int] = {}
    async with Stage.on(servers) as stage:
        with Running.of(contestant, stage.environment) as running:
            await until_consuming(stage, running)
            async with _sender(stage) as sender, _Receiver(stage) as receiver:
                for load in LOADS:
                    pace = _Pace(load, capacity * load, seconds, warm_up_seconds)
                    series[pace.series] = pace.count
                    found.append(await _at(pace, stage, sender, receiver, running))
                await until_settled(stage, contestant)
        await stage.check([body for _, body in receiver.got], series, stored=contestant.stores)
    return found


@asynccontextmanager
async def _sender(stage: Stage) -> AsyncIterator[AbstractExchange]:
    """Without confirms, every event is waited for; closed only then, or its last might be lost."""
    async with await aio_pika.connect(stage.settings.broker) as connection:
        channel = await connection.channel(publisher_confirms=False)
        yield channel.default_exchange


class _Receiver:
    """Collects events with the moment each came in; reads them later."""

    def __init__(self, stage: Stage) -> None:
        self.got: list[tuple[float, bytes]] = []
        self._stage = stage
        self._connection: Any = None
        self._arrived = asyncio.Event()

    async def __aenter__(self) -> _Receiver:
        self._connection = await aio_pika.connect(self._stage.settings.broker)
        channel = await self._connection.channel(publisher_confirms=False)
        queue = await channel.get_queue(self._stage.topology.processed.name, ensure=False)
        await queue.consume(self._take, no_ack=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self.got.append((time.monotonic(), message.body))
        self._arrived.set()

    async def until(self, count: int) -> None:
        try:
            async with asyncio.timeout(ARRIVAL_SECONDS):
                while len(self.got) < count:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            where = await self._stage.state()
            raise Wrong(f"{len(self.got)} of {count} events came\n{where}") from None


@dataclass(frozen=True)
class _Pace:
    """A constant rate, in orders per second, for so many seconds after warming up."""

    load: float
    rate: float
    seconds: float
    warm_up_seconds: float

    @property
    def series(self) -> str:
        return f"load{self.load:g}"

    @property
    def measured(self) -> int:
        return max(round(self.rate * self.seconds), 1)

    @property
    def count(self) -> int:
        return round(self.rate * self.warm_up_seconds) + self.measured


async def _at(
    pace: _Pace, stage: Stage, sender: AbstractExchange, receiver: _Receiver, running: Running
) -> Latency:
    series, count, before = pace.series, pace.count, len(receiver.got)
    ready = [order_created(body) for body in messages(series, count)]
    with _no_collection():
        used = running.usage().cpu_seconds
        due, late = await _send(sender, stage.topology.incoming.name, ready, pace.rate)
        await receiver.until(before + count)
        used = running.usage().cpu_seconds - used
    arrivals = {json.loads(body)["orderId"]: moment for moment, body in receiver.got[before:]}
    first = count - pace.measured
    waits = [arrivals[order_id(series, n)] - due[n] for n in range(first, count)]
    return Latency(
        contestant=running.contestant.name,
        load=pace.load,
        rate=pace.rate,
        orders=len(waits),
        p50=percentile(waits, 50) * MILLI,
        p95=percentile(waits, 95) * MILLI,
        p99=percentile(waits, 99) * MILLI,
        longest=max(waits) * MILLI,
        cpu_microseconds=used / count * MICRO,
        sender_late_p99=percentile(late[first:], 99) * MILLI,
    )


async def _send(
    exchange: AbstractExchange, queue: str, ready: Sequence[aio_pika.Message], rate: float
) -> tuple[list[float], list[float]]:
    """Send each when it is due; returns when each was due, and how late it went."""
    due: list[float] = []
    late: list[float] = []
    start = time.monotonic() + 0.1
    for number, message in enumerate(ready):
        due.append(start + number / rate)
        if (ahead := due[-1] - time.monotonic()) > 0:
            await asyncio.sleep(ahead)
        late.append(time.monotonic() - due[-1])
        await exchange.publish(message, queue)
    return due, late


@contextmanager
def _no_collection() -> Iterator[None]:
    """The measuring side's own garbage collection would count as the contestant's latency."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least this share of all does not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(int(rank) - 1, 0)]
