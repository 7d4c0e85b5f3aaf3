"""What an operator can take away at the broker while it runs: queues and routes.

Messages in a queue that somebody deletes are gone by the deleter's hand. So a queue is deleted only
when it is empty, or when the observer has what was in it.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aio_pika.abc import AbstractIncomingMessage
from aiormq.abc import FieldTable

from tests.faults.contract import LARGEST_STORED
from tests.faults.faults import BROKER_BACK_SECONDS
from tests.faults.interference import (
    ctl,
    messages_in,
    nothing_under_way,
    operators_channel,
)
from tests.faults.journal import Observed
from tests.faults.observer import EVERYTHING, observed
from tests.faults.observer import QUEUE as OBSERVER_QUEUE
from tests.faults.registry import Measurement, fault
from tests.faults.setting import EXCHANGE, INCOMING, OUTPUTS
from tests.faults.stage import POLL_SECONDS, RECOVERY_SECONDS, Stage
from tests.patience import PATIENCE_SECONDS

PROCESSED = "order_processed_queue"
DLQ = "order_dlq"
PROCESSED_KEY = "order.processed"
QUORUM: FieldTable = {"x-queue-type": "quorum"}
MENDED_SECONDS = 35.0
RETRY_MILLISECONDS = 500


@fault("delete-incoming-queue")
async def delete_incoming_queue(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Under no load, and empty; the load goes on at once, into nothing at first."""
    await nothing_under_way(stage)
    async with operators_channel(stage) as channel:
        await channel.queue_delete(INCOMING)
    deleted = time.time()
    stage.producer.resume()
    back = await stage.first_order_after(deleted)
    return [
        Measurement("first order after its queue was deleted", back, BROKER_BACK_SECONDS),
    ]


@fault("delete-processed-queue")
async def delete_processed_queue(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Under load. The observer's queue still takes every event, so the broker returns none."""
    async with operators_channel(stage) as channel:
        await channel.queue_delete(PROCESSED)
    return [await _mended(stage, "event in a queue that was deleted")]


@fault("unbind-processed-queue")
async def unbind_processed_queue(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Under load. The observer's queue still takes every event, so the broker returns none."""
    async with operators_channel(stage) as channel:
        queue = await channel.get_queue(PROCESSED, ensure=False)
        await queue.unbind(EXCHANGE, PROCESSED_KEY)
        await queue.purge()
    return [await _mended(stage, "event in a queue that was unbound")]


@fault("unbind-everybody")
async def unbind_everybody(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Under load no queue is bound for processed orders: the broker returns their events.

    The observer's queue is bound again last; what it missed it hears from the service's queues.
    """
    async with operators_channel(stage) as channel:
        for name, key in ((PROCESSED, PROCESSED_KEY), (OBSERVER_QUEUE, EVERYTHING)):
            queue = await channel.get_queue(name, ensure=False)
            await queue.unbind(EXCHANGE, key)
            if name == PROCESSED:
                await queue.purge()  # of what the observer has too
    return [await _mended_unobserved(stage, "event after every queue was unbound")]


@fault("delete-exchange")
async def delete_exchange(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Under load, and with it all bindings.

    The observer's queue is bound again last; what it missed it hears from the service's queues.
    """
    async with operators_channel(stage) as channel:
        await channel.exchange_delete(EXCHANGE)
        await (await channel.get_queue(PROCESSED, ensure=False)).purge()
    return [await _mended_unobserved(stage, "event after the exchange was deleted")]


@fault("events-come-back")
async def events_come_back(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Under load all that is published comes back as work, and dead letters do so for ever."""
    async with all_comes_back(stage):
        await stage.producer.produced_at_least(stage.producer.produced + rng.randint(50, 150))
    seconds = await stage.first_order_after(time.time())
    return [Measurement("first order after events came back", seconds, BROKER_BACK_SECONDS)]


@asynccontextmanager
async def all_comes_back(stage: Stage) -> AsyncIterator[None]:
    """The incoming queue is bound to all events, and the dead-letter queue is a retry queue."""
    retry = {
        "message-ttl": RETRY_MILLISECONDS,
        "dead-letter-exchange": "",
        "dead-letter-routing-key": INCOMING,
    }
    policy = ("--vhost", stage.vhost)
    queues = ("retry", f"^{DLQ}$", json.dumps(retry), "--apply-to", "queues")
    async with operators_channel(stage) as channel:
        incoming = await channel.get_queue(INCOMING, ensure=False)
        await ctl(stage, "set_policy", *policy, *queues)
        await incoming.bind(EXCHANGE, EVERYTHING)
        try:
            yield
        finally:
            await incoming.unbind(EXCHANGE, EVERYTHING)
            await ctl(stage, "clear_policy", *policy, "retry")


async def _mended(stage: Stage, what: str) -> Measurement:
    """How long until the service's own queue, empty now, gets events.

    Raises:
        AssertionError: it got none; the queue and its binding are there again all the same.
    """
    started = time.monotonic()
    try:
        async with asyncio.timeout(RECOVERY_SECONDS):
            while not await messages_in(stage, PROCESSED):
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        async with operators_channel(stage) as channel:
            queue = await channel.declare_queue(PROCESSED, durable=True, arguments=QUORUM)
            await queue.bind(EXCHANGE, PROCESSED_KEY)
        raise AssertionError(f"no {what} within {RECOVERY_SECONDS:g} s") from None
    return Measurement(what, time.monotonic() - started, MENDED_SECONDS)


async def _mended_unobserved(stage: Stage, what: str) -> Measurement:
    try:
        mended = await _mended(stage, what)
    finally:
        await _all_observed(stage)
        missed_after = len(stage.journals.observed.records)
        async with operators_channel(stage) as channel:
            await channel.declare_exchange(EXCHANGE, "topic", durable=True)
            queue = await channel.get_queue(OBSERVER_QUEUE, ensure=False)
            await queue.bind(EXCHANGE, EVERYTHING)
    await nothing_under_way(stage)
    await _all_observed(stage)
    await _hear_outputs(stage, missed_after)
    stage.producer.resume()
    return mended


async def _all_observed(stage: Stage) -> None:
    """Returns once the observer has on disk whatever its queue got; it gets nothing now."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while any(
            each.ready or each.unacknowledged
            for each in await stage.depths()
            if each.queue == OBSERVER_QUEUE
        ):
            await asyncio.sleep(POLL_SECONDS)


async def _hear_outputs(stage: Stage, missed_after: int) -> None:
    """Take all that is in the service's queues now, and observe what the observer has missed.

    It was published after the first `missed_after` observations and before the others, and of one
    order what was processed before what failed: the journal's records stand in that order.
    """
    missed: list[Observed] = []
    taken = asyncio.Semaphore(0)

    async def take(message: AbstractIncomingMessage) -> None:
        if message.message_id not in stage.observer.seen:
            missed.append(observed(message))
        taken.release()

    async with operators_channel(stage) as channel:
        for name in OUTPUTS:
            queue = await channel.declare_queue(name, passive=True)
            tag = await queue.consume(take, no_ack=True)
            async with asyncio.timeout(PATIENCE_SECONDS):
                for _ in range(queue.declaration_result.message_count or 0):
                    await taken.acquire()
            await queue.cancel(tag)
    records = stage.journals.observed.records
    later = records[missed_after:]
    for each in missed:
        await stage.journals.observed.append(each)
        if len(each.payload) <= LARGEST_STORED:
            stage.observer.seen.add(each.event_id)
    records[missed_after:] = [*missed, *later]
