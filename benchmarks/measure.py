"""Throughput and what it costs, for one contestant at a time.

The messages lie in the incoming queue, confirmed, before the contestant is started. The clock runs
from the first delivery, so starting up is not counted, to the moment when the last event, confirmed
by the broker, is on the outgoing queue. Until then the measuring side only asks the broker for two
queue depths now and then; it reads the events afterwards, and checks each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from benchmarks.contestants import Contestant, Running
from benchmarks.stage import Servers, Stage, Wrong
from benchmarks.workload import messages

POLL_SECONDS = 0.02
START_SECONDS = 60.0
STALL_SECONDS = 45.0
SETTLE_SECONDS = 30.0
# For the acknowledgements that follow the last event.
REST_SECONDS = 0.3
MICRO = 1_000_000


@dataclass(frozen=True)
class Throughput:
    """One measurement. Costs are per order."""

    contestant: str
    orders: int
    seconds: float
    orders_per_second: float
    cpu_microseconds: float
    peak_megabytes: float
    statements: float
    commits: float
    engine_commits: float
    round_trips: float


async def throughput(servers: Servers, contestant: Contestant, orders: int) -> Throughput:
    """Measure once, on a stage of its own.

    Raises:
        Wrong: not every order had its effect exactly once, or the contestant stood still.
    """
    async with Stage.on(servers) as stage:
        await stage.preload(messages("order", orders))
        with Running.of(contestant, stage.environment) as running:
            counters = stage.link.counters()
            await until_first_delivery(stage, running, orders)
            started, used = time.monotonic(), running.usage()
            await until_processed(stage, running, orders)
            seconds = time.monotonic() - started
            await until_settled(stage, contestant)
            usage = running.usage()
            counted = stage.link.counters().since(counters)
        await stage.check(await stage.drain(), {"order": orders}, stored=contestant.stores)
    return Throughput(
        contestant=contestant.name,
        orders=orders,
        seconds=seconds,
        orders_per_second=orders / seconds,
        cpu_microseconds=(usage.cpu_seconds - used.cpu_seconds) / orders * MICRO,
        peak_megabytes=usage.peak_bytes / 2**20,
        statements=counted.statements / orders,
        commits=counted.commit / orders,
        engine_commits=counted.handler_commit / orders,
        round_trips=counted.questions / orders,
    )


async def until_first_delivery(stage: Stage, running: Running, orders: int) -> None:
    async def delivered() -> bool:
        return (await stage.incoming()).ready < orders

    await _until(delivered, running, START_SECONDS, "took no message")


async def until_consuming(stage: Stage, running: Running) -> None:
    """Return once each process of the contestant has its consumer."""
    processes = running.contestant.processes

    async def consuming() -> bool:
        return (await stage.incoming()).consumers >= processes

    await _until(consuming, running, START_SECONDS, "does not consume")


async def until_processed(stage: Stage, running: Running, orders: int) -> None:
    """Return once that many events are on the outgoing queue."""
    deadline = time.monotonic() + STALL_SECONDS
    before = -1
    while (count := await stage.processed()) < orders:
        now = time.monotonic()
        if count > before:
            before, deadline = count, now + STALL_SECONDS
        elif now > deadline:
            raise Wrong(
                f"{running.contestant.name} stands still at {count} of {orders} orders:\n"
                + running.log_tail()
            )
        running.check_alive()
        await asyncio.sleep(POLL_SECONDS)


async def until_settled(stage: Stage, contestant: Contestant) -> None:
    """Return once the outbox is written up too, so that all of the work is counted."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while contestant.stores and not stage.link.settled():
        if time.monotonic() > deadline:
            raise Wrong(f"{contestant.name} published events and did not write that down")
        await asyncio.sleep(POLL_SECONDS)
    await asyncio.sleep(REST_SECONDS)


async def _until(
    condition: Callable[[], Awaitable[bool]], running: Running, seconds: float, fault: str
) -> None:
    deadline = time.monotonic() + seconds
    while not await condition():
        running.check_alive()
        if time.monotonic() > deadline:
            raise Wrong(
                f"{running.contestant.name} {fault} within {seconds:g} s:\n{running.log_tail()}"
            )
        await asyncio.sleep(POLL_SECONDS)
