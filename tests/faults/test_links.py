"""Two service processes behind proxies under load: links cut and frozen where it hurts most."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import pytest

from tests.faults.framing import Moment
from tests.faults.link_faults import HITS, LATEST_HIT, LINKED, LINKS
from tests.faults.points import POINTS, Point, name_of
from tests.faults.proxied_link import Action
from tests.faults.registry import Measurement, all_faults
from tests.faults.setting import Servers
from tests.faults.stage import Stage

CUTS = 3
BEFORE_ACK = next(point for point in POINTS if point.moment is Moment.ACK)


@pytest.fixture
async def stage(servers_to_break: Servers, tmp_path: Path) -> AsyncIterator[Stage]:
    async with Stage.open(tmp_path, LINKED, servers_to_break) as stage:
        stage.producer.resume()
        yield stage


async def cut_often(points: Iterable[Point]) -> None:
    rng = random.Random(0)
    for point in points:
        for _ in range(CUTS):
            assert_it_came(await LINKS.strike(point, Action.CUT, nth=rng.randint(1, LATEST_HIT)))


async def freeze_at_once(points: Iterable[Point]) -> None:
    async with asyncio.TaskGroup() as strikes:
        struck = [strikes.create_task(LINKS.strike(point, Action.FREEZE)) for point in points]
    for strike in struck:
        assert_it_came(strike.result())


def assert_it_came(measured: Iterable[Measurement]) -> None:
    assert [each for each in measured if not each.came] == []


@pytest.mark.servers
async def test_links_that_are_cut_and_frozen_at_any_point_lose_nothing_and_repeat_no_effect(
    stage: Stage,
) -> None:
    # Only heartbeats tell of a consumer's link that is frozen: the rest is struck meanwhile.
    consumer, others = [BEFORE_ACK], [point for point in POINTS if point is not BEFORE_ACK]
    async with asyncio.TaskGroup() as slow:
        slow.create_task(freeze_at_once(consumer))
        await freeze_at_once(others)
        await cut_often(others)
    await cut_often(consumer)

    rest = await stage.at_rest()
    assert rest.reached, rest.waiting
    verdict = await stage.verdict()
    assert verdict.holds, str(verdict)
    assert verdict.sums.duplicated > 0, "an event whose confirm was cut off is published again"


def test_every_point_is_a_fault_of_the_campaign_once_cut_and_once_frozen() -> None:
    names = {name_of(point, action) for point in POINTS for action in HITS}
    assert names <= set(all_faults())
