"""COMMITs that the server refuses, or whose answer is lost: of neither is a message the cause."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import time

from tests.faults.framing import Moment
from tests.faults.interference import published_up_to
from tests.faults.points import MET_SECONDS, ProxiedLinks
from tests.faults.proxied_link import Action
from tests.faults.proxy import Trap
from tests.faults.registry import Measurement, fault
from tests.faults.setting import StageOptions
from tests.faults.stage import Stage

AGAIN_SECONDS = 10.0
PUBLISHED_SECONDS = 3.0
# Enough for every message at hand to fail more often than it may before it is suspected.
REFUSALS = (4, 12, 24)
LINKS = ProxiedLinks()
# A lease that nobody waits for: what an unanswered COMMIT stored comes out because it is released.
LINKED = StageOptions(environment={"RELAY_LEASE_SECONDS": "600"}, links=LINKS)


@fault("refuse-commits", options=LINKED)
async def refuse_commits(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Each COMMIT of an order or a dead letter is refused, as by a full disk, and then none."""
    await refuse(LINKS, rng.choice(REFUSALS))
    seconds = await stage.first_order_after(time.time())
    return [Measurement("first order after COMMITs were refused", seconds, AGAIN_SECONDS)]


@fault("lose-answers-to-commits", options=LINKED)
async def lose_answers_to_commits(stage: Stage, rng: random.Random) -> list[Measurement]:
    """COMMITs take effect, and the links break before they are answered."""
    for _ in range(rng.randint(1, 4)):
        await lose_an_answer(LINKS, nth=rng.randint(1, 10))
    seconds = await published_up_to(stage, time.time())
    return [Measurement("what unanswered COMMITs stored, published", seconds, PUBLISHED_SECONDS)]


async def refuse(links: ProxiedLinks, count: int) -> None:
    """Refuse the next so many COMMITs of intake; returns once they were."""
    traps = [Trap(Moment.INTAKE_COMMIT, Action.REFUSE) for _ in range(count)]
    for trap, following in itertools.pairwise(traps):
        # Armed as the one before fires: no COMMIT passes in between.
        trap.then = functools.partial(links.database.arm, following)
    links.database.arm(traps[0])
    try:
        async with asyncio.timeout(MET_SECONDS):
            await traps[-1].fired.wait()
    finally:
        for trap in traps:
            links.database.disarm(trap)


async def lose_an_answer(links: ProxiedLinks, nth: int) -> None:
    """Cut the link on which the `nth` COMMIT of intake from now on is answered."""
    trap = Trap(Moment.INTAKE_COMMITTED, Action.CUT, nth=nth)
    links.database.arm(trap)
    try:
        async with asyncio.timeout(MET_SECONDS):
            await trap.fired.wait()
    finally:
        links.database.disarm(trap)
