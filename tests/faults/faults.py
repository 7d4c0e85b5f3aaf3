"""Processes and servers that die, stand still, are told to end, or come back together."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

from aio_pika.abc import AbstractIncomingMessage

from tests.faults.contract import content_of
from tests.faults.facts import content_of_row
from tests.faults.link import connect
from tests.faults.registry import Measurement, fault
from tests.faults.setting import INCOMING, LEASE_SECONDS
from tests.faults.stage import Stage
from tests.patience import PATIENCE_SECONDS
from tests.servers import AnyDatabase, AnyRabbit

BROKER_BACK_SECONDS = 15.0
DATABASE_BACK_SECONDS = 10.0
NOTICED_SECONDS = 35.0
TAKEN_OVER_SECONDS = 35.0
DRAINED_SECONDS = 25.0
LONGEST_HOLD_SECONDS = 3.0
# Links that stand still for so long are given up by both ends, whatever their heartbeat.
LONG_FREEZE_SECONDS = 30.0
TAKEN_PER_CHANNEL = 1000
POLL_SECONDS = 0.1


@fault("kill-service")
async def kill_service(stage: Stage, rng: random.Random) -> list[Measurement]:
    """One of the processes dies; the others take over what it had, and it is started again."""
    victim = rng.choice(stage.services.running)
    await stage.services.kill(victim)
    died = time.time()
    taken_over = await stage.first_order_after(died)
    await asyncio.sleep(rng.uniform(0, LONGEST_HOLD_SECONDS))
    await stage.services.start(victim)
    return [Measurement("next order after a service was killed", taken_over, TAKEN_OVER_SECONDS)]


@fault("kill-broker")
async def kill_broker(stage: Stage, rng: random.Random) -> list[Measurement]:
    await asyncio.to_thread(stage.broker.kill)
    await asyncio.sleep(rng.uniform(0, LONGEST_HOLD_SECONDS))
    return [_broker_back(await stage.recovery(stage.broker))]


@fault("kill-database")
async def kill_database(stage: Stage, rng: random.Random) -> list[Measurement]:
    await asyncio.to_thread(stage.database.kill)
    await asyncio.sleep(rng.uniform(0, LONGEST_HOLD_SECONDS))
    return [_database_back(await stage.recovery(stage.database))]


@fault("restart-both-servers")
async def restart_both_servers(stage: Stage, rng: random.Random) -> list[Measurement]:
    """An orderly stop of both at once, and a start of both at once."""
    both = (stage.database, stage.broker)
    await asyncio.gather(*(asyncio.to_thread(server.stop) for server in both))
    await asyncio.sleep(rng.uniform(0, LONGEST_HOLD_SECONDS))
    return [_broker_back(await stage.recovery(*both))]


@fault("freeze-relay")
async def freeze_relay(stage: Stage, rng: random.Random) -> list[Measurement]:
    """One process stands still, past its relay's lease, and then goes on as if nothing was."""
    victim = rng.choice(stage.services.running)
    stage.services.freeze(victim)
    await asyncio.sleep(rng.uniform(LEASE_SECONDS + 1, 2 * LEASE_SECONDS + 2) + _longer(rng))
    stage.services.thaw(victim)
    thawed = time.time()
    return [
        Measurement(
            "next order after a service thawed",
            await stage.first_order_after(thawed),
            TAKEN_OVER_SECONDS,
        )
    ]


@fault("freeze-broker")
async def freeze_broker(stage: Stage, rng: random.Random) -> list[Measurement]:
    return await _freeze(stage, rng, stage.broker, "broker", BROKER_BACK_SECONDS)


@fault("freeze-database")
async def freeze_database(stage: Stage, rng: random.Random) -> list[Measurement]:
    return await _freeze(stage, rng, stage.database, "database", DATABASE_BACK_SECONDS)


async def _freeze(
    stage: Stage, rng: random.Random, server: AnyDatabase | AnyRabbit, name: str, bound: float
) -> list[Measurement]:
    """Until every process has noticed it by itself, as its probe tells; at times much longer."""
    await asyncio.to_thread(server.freeze)
    frozen = time.time()
    try:
        await stage.services.wait_for_status("/health", 503, within=PATIENCE_SECONDS)
        noticed = time.time() - frozen
        await asyncio.sleep(_longer(rng))
    finally:
        await asyncio.to_thread(server.thaw)
    back = await stage.first_order_after(time.time())
    return [
        Measurement(f"notice of a frozen {name}", noticed, NOTICED_SECONDS),
        Measurement(f"first order after the {name} thawed", back, bound),
    ]


def _longer(rng: random.Random) -> float:
    return rng.choice((0.0, 0.0, 0.0, LONG_FREEZE_SECONDS))


@fault("terminate-service")
async def terminate_service(stage: Stage, rng: random.Random) -> list[Measurement]:
    """All processes are told to end with their hands full, of what came while they stood still.

    What they did must be acknowledged then, and the rest be back in the queue.
    """
    processes = stage.services.running
    for number in processes:
        stage.services.freeze(number)
    await asyncio.sleep(rng.uniform(0, LONGEST_HOLD_SECONDS))
    for number in processes:
        stage.services.thaw(number)
    endings = await stage.services.terminate()
    for ending in endings:
        assert ending.orderly, f"told to end, a service ended with {ending.status}"
    again = await delivered_again(stage)
    assert not again, f"done, and not acknowledged at the end: {list(again)[:5]}"
    await asyncio.sleep(rng.uniform(0, LONGEST_HOLD_SECONDS))
    await stage.services.start(*processes)
    drained = max(ending.seconds for ending in endings)
    return [Measurement("drain on SIGTERM", drained, DRAINED_SECONDS)]


async def delivered_again(stage: Stage) -> set[str | None]:
    """The messages that wait in the incoming queue though their effect is stored already.

    With no process running. An order that was published more than once is left out: of which of
    its messages the effect is, nobody can say.
    """
    waiting = await _waiting(stage)
    tables = await asyncio.to_thread(stage.tables.read)
    refused = {row.trace for row in tables.dead_letters}
    stored = {content_of_row(row) for row in tables.orders}
    valid = [each for each in stage.journals.attempts.records if each.reason is None]
    times = Counter(content_of(each.body) for each in valid)
    processed = {
        each.trace
        for each in valid
        if times[content_of(each.body)] == 1 and content_of(each.body) in stored
    }
    return waiting & (refused | processed)


async def _waiting(stage: Stage) -> set[str | None]:
    """The traces of all messages in the incoming queue; they stay there."""
    while any(each.unacknowledged for each in await stage.depths() if each.queue == INCOMING):
        await asyncio.sleep(POLL_SECONDS)
    traces, taken = set[str | None](), asyncio.Semaphore(0)

    async def take(message: AbstractIncomingMessage) -> None:
        traces.add(message.correlation_id)
        taken.release()

    async with await connect(stage.mq_url) as connection:
        there = await (await connection.channel()).declare_queue(INCOMING, passive=True)
        count = there.declaration_result.message_count or 0
        # A quorum queue gives a channel 2,000 messages at most that are not acknowledged.
        for _ in range(0, count, TAKEN_PER_CHANNEL):
            channel = await connection.channel()
            queue = await channel.get_queue(INCOMING, ensure=False)
            await queue.consume(take)
        async with asyncio.timeout(PATIENCE_SECONDS):
            for _ in range(count):
                await taken.acquire()
    return traces


def _broker_back(seconds: float) -> Measurement:
    return Measurement("first order after the broker's port opened", seconds, BROKER_BACK_SECONDS)


def _database_back(seconds: float) -> Measurement:
    return Measurement(
        "first order after the database's port opened", seconds, DATABASE_BACK_SECONDS
    )
