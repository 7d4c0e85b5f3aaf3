"""A process whose event loop does nothing for a while, and links that are left half-closed.

To everybody else a process that is stopped (SIGSTOP) is one whose event loop is blocked: it reads
nothing, sends no heartbeat, and when it goes on, every deadline has passed at once.
"""

from __future__ import annotations

import asyncio
import random
import time

from tests.faults.faults import BROKER_BACK_SECONDS, TAKEN_OVER_SECONDS
from tests.faults.framing import Moment
from tests.faults.points import MET_SECONDS, ProxiedLinks
from tests.faults.proxied_link import Action
from tests.faults.proxy import Trap
from tests.faults.registry import Inject, Measurement, fault
from tests.faults.setting import StageOptions
from tests.faults.stage import Stage

BLOCKS_SECONDS = (10, 30, 60)
# The consumer leaves its link by itself soon after the database stands still.
LEAVES_ITS_LINK = {
    "OUTAGE_HOLD_SECONDS": "1",
    "DB_TIMEOUT_SECONDS": "2",
    "MQ_HEARTBEAT_SECONDS": "6",
    "PUBLISH_TIMEOUT_SECONDS": "4",
    "RELAY_LEASE_SECONDS": "5",
}
LINKS = ProxiedLinks()
LEFT = StageOptions(environment=LEAVES_ITS_LINK, links=LINKS)


def _blocked_for(seconds: int) -> Inject:
    async def inject(stage: Stage, rng: random.Random) -> list[Measurement]:
        victim = rng.choice(stage.services.running)
        stage.services.freeze(victim)
        await asyncio.sleep(seconds)
        stage.services.thaw(victim)
        after = await stage.first_order_after(time.time())
        return [Measurement("next order after a blocked loop", after, TAKEN_OVER_SECONDS)]

    return inject


for each in BLOCKS_SECONDS:
    fault(f"block-loop-{each}-seconds")(_blocked_for(each))


@fault("drop-close-frames", options=LEFT)
async def drop_close_frames(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Links are left with messages at hand, and the broker does not hear of it."""
    measured: list[Measurement] = []
    for _ in range(rng.randint(1, 3)):
        await _leave_links(Trap(Moment.CLOSE, Action.DROP))
        measured += await _back(stage)
    return measured


@fault("stop-between-close-and-reopen", options=LEFT)
async def stop_between_close_and_reopen(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Every process stands still as soon as one has told the broker that it leaves its link."""
    processes = stage.services.running

    def stop_all() -> None:
        for number in processes:
            stage.services.freeze(number)

    await _leave_links(Trap(Moment.CLOSE, rng.choice((Action.PASS, Action.DROP)), then=stop_all))
    await asyncio.sleep(rng.choice(BLOCKS_SECONDS[:2]))
    for number in processes:
        stage.services.thaw(number)
    return await _back(stage)


async def _leave_links(trap: Trap) -> None:
    """The database stands still until the trap at a link's end has fired."""
    LINKS.broker.arm(trap)
    LINKS.database.freeze()
    try:
        async with asyncio.timeout(MET_SECONDS):
            await trap.fired.wait()
    finally:
        LINKS.broker.disarm(trap)
        LINKS.database.thaw()


async def _back(stage: Stage) -> list[Measurement]:
    back = await stage.first_order_after(time.time())
    return [Measurement("next order after links were left", back, BROKER_BACK_SECONDS)]
