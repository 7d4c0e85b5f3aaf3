"""Rights that the broker takes away from the service's user, and links that it ends."""

from __future__ import annotations

import asyncio
import random
import time

from tests.faults.faults import BROKER_BACK_SECONDS, LONGEST_HOLD_SECONDS
from tests.faults.interference import ctl, next_event
from tests.faults.registry import Measurement, fault
from tests.faults.setting import EXCHANGE
from tests.faults.stage import Stage
from tests.servers.server import USER

CLOSINGS = 2


@fault("revoke-permissions")
async def revoke_permissions(stage: Stage, rng: random.Random) -> list[Measurement]:
    """The user may do nothing in the vhost, and is thrown out of it."""
    await ctl(stage, "clear_permissions", "--vhost", stage.vhost, USER)
    try:
        await _close_all_connections(stage)
        await asyncio.sleep(rng.uniform(0, LONGEST_HOLD_SECONDS))
    finally:
        await _permit(stage, write=".*")
    given = time.time()
    back = await stage.first_order_after(given)
    return [Measurement("first order after rights were given back", back, BROKER_BACK_SECONDS)]


@fault("revoke-publishing")
async def revoke_publishing(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Orders come and are taken in; the service may not write to the exchange of its events."""
    await _permit(stage, write=rf"^(?!{EXCHANGE}$).*")
    try:
        # What a channel may do it remembers.
        await _close_all_connections(stage)
        await stage.first_order_after(time.time())
        await asyncio.sleep(rng.uniform(0, LONGEST_HOLD_SECONDS))
    finally:
        await _permit(stage, write=".*")
    back = await next_event(stage)
    return [Measurement("next event after rights were given back", back, BROKER_BACK_SECONDS)]


@fault("close-connections")
async def close_connections(stage: Stage, rng: random.Random) -> list[Measurement]:
    """The broker ends all links of the vhost, again and again."""
    for _ in range(rng.randint(1, CLOSINGS)):
        await _close_all_connections(stage)
    closed = time.time()
    back = await stage.first_order_after(closed)
    return [Measurement("first order after links were closed", back, BROKER_BACK_SECONDS)]


async def _permit(stage: Stage, *, write: str) -> None:
    await ctl(stage, "set_permissions", "--vhost", stage.vhost, USER, ".*", write, ".*")


async def _close_all_connections(stage: Stage) -> None:
    await ctl(stage, "close_all_connections", "--vhost", stage.vhost, "a fault of the campaign")
