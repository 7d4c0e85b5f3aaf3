"""A broker that is short of memory or of disk: it lets nobody publish until it has enough again."""

from __future__ import annotations

import asyncio
import random

from tests.faults.faults import BROKER_BACK_SECONDS
from tests.faults.interference import ctl, next_event
from tests.faults.registry import Measurement, fault
from tests.faults.stage import Stage
from tests.patience import PATIENCE_SECONDS

# Short, longer than the service waits for a confirm, longer than the producer does.
HOLDS = (1.0, 6.0, 11.0)
QUIET_SECONDS = 0.5


@fault("memory-alarm")
async def memory_alarm(stage: Stage, rng: random.Random) -> list[Measurement]:
    return await _alarm(stage, rng, "set_vm_memory_high_watermark", short="0", usual="0.4")


@fault("disk-alarm")
async def disk_alarm(stage: Stage, rng: random.Random) -> list[Measurement]:
    return await _alarm(stage, rng, "set_disk_free_limit", short="1000000GB", usual="50MB")


async def _alarm(
    stage: Stage, rng: random.Random, command: str, *, short: str, usual: str
) -> list[Measurement]:
    """What waits in the queue is taken in meanwhile, and its events wait in the outbox."""
    await ctl(stage, command, short)
    try:
        await _nobody_publishes(stage)
        await asyncio.sleep(rng.choice(HOLDS))
    finally:
        await ctl(stage, command, usual)
    back = await next_event(stage)
    return [Measurement("next event after an alarm", back, BROKER_BACK_SECONDS)]


async def _nobody_publishes(stage: Stage) -> None:
    """Returns once the producer, which goes on, gets no confirm any more.

    Raises:
        TimeoutError: it still gets them.
    """
    async with asyncio.timeout(PATIENCE_SECONDS):
        confirmed = -1
        while confirmed != stage.producer.settled:
            confirmed = stage.producer.settled
            await asyncio.sleep(QUIET_SECONDS)
