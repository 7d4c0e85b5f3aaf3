"""Faults of what surrounds the service: each once, under load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.faults.campaign import Campaign, Plan
from tests.faults.registry import all_faults
from tests.faults.setting import Servers

SEED, RATE = 5, 60.0


async def each_once(names: Sequence[str], servers: Servers, folder: Path) -> None:
    """Inject each under load, wait for rest and judge."""
    faults = tuple(all_faults()[name] for name in names)
    plan = Plan(SEED, len(faults), orders=0, rate=RATE, faults=faults)
    report = await Campaign(plan, folder, servers=servers).run()
    assert report.wrong == []
    assert {each.fault for each in report.cycles} == set(names)
    assert report.sums.acknowledged > 0
