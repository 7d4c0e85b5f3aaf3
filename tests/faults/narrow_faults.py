"""An uplink to the broker that is too narrow for what is to be published."""

from __future__ import annotations

import asyncio
import random
import time

from tests.faults.faults import BROKER_BACK_SECONDS
from tests.faults.points import ProxiedLinks
from tests.faults.registry import Measurement, fault
from tests.faults.setting import StageOptions
from tests.faults.stage import Stage
from tests.faults.workload import Kind

LARGE = 12
# The narrowest link that is served takes 1 MiB in PUBLISH_TIMEOUT_SECONDS: 262 kB/s with these 4.
SERVED, TOO_NARROW = 300_000.0, 60_000.0
HOLDS_SECONDS = (5.0, 15.0)
LINKS = ProxiedLinks()
NARROWED = StageOptions(links=LINKS)


@fault("narrow-uplink", options=NARROWED)
async def narrow_uplink(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Messages of more than 256 KiB are refused while each link to the broker is narrow."""
    LINKS.broker.narrow(rng.choice((SERVED, TOO_NARROW)))
    try:
        await stage.send(Kind.TOO_LARGE, LARGE)
        await asyncio.sleep(rng.choice(HOLDS_SECONDS))
    finally:
        LINKS.broker.narrow(None)
    seconds = await stage.first_order_after(time.time())
    return [Measurement("first order after the uplink was narrow", seconds, BROKER_BACK_SECONDS)]
