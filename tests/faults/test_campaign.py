"""Each of the campaign's own faults once; `make faults` runs it at length."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults.campaign import Campaign, Plan
from tests.faults.registry import Fault, all_faults
from tests.faults.setting import Servers

# A seed whose freezes are all short.
SEED, RATE = 3, 60.0
KINDS = (
    *("kill-service", "kill-broker", "kill-database", "restart-both-servers"),
    *("freeze-relay", "freeze-broker", "freeze-database", "terminate-service"),
)
CYCLES = len(KINDS)


@pytest.fixture
def kinds() -> tuple[Fault, ...]:
    return tuple(all_faults()[name] for name in KINDS)


@pytest.mark.servers
async def test_each_fault_under_load_loses_nothing_and_does_nothing_twice(
    kinds: tuple[Fault, ...], servers_to_break: Servers, tmp_path: Path
) -> None:
    least = round(RATE) * CYCLES
    plan = Plan(SEED, CYCLES, orders=least, rate=RATE, faults=kinds)
    report = await Campaign(plan, tmp_path, servers=servers_to_break).run()

    assert report.wrong == []
    assert [each.number for each in report.cycles] == list(range(1, CYCLES + 1))
    assert {each.fault for each in report.cycles} == set(KINDS)
    sums = report.sums
    assert sum(each.orders for each in report.cycles) >= least
    assert sums.attempts >= sums.acknowledged > 0
    assert sums.ok == sums.acknowledged + sums.recovered
    assert (sums.lost, sums.unexpected) == (0, 0)
    assert json.loads(json.dumps(report.as_json()))["wrong"] == []


def test_a_seed_deals_each_fault_once_before_any_comes_again(kinds: tuple[Fault, ...]) -> None:
    plan = Plan(SEED, 2 * len(kinds), orders=0, rate=RATE, faults=kinds)
    dealt = [plan.fault_of(cycle).name for cycle in plan.numbers]
    assert set(dealt[: len(kinds)]) == set(dealt[len(kinds) :]) == set(KINDS)
    assert dealt[: len(kinds)] != dealt[len(kinds) :]


def test_a_cycle_that_is_run_alone_has_the_fault_that_it_had_in_its_place(
    kinds: tuple[Fault, ...],
) -> None:
    whole = Plan(SEED, 30, orders=300, rate=RATE, faults=kinds)
    alone = Plan(SEED, 1, orders=10, rate=RATE, faults=kinds, first=17)
    assert list(alone.numbers) == [17]
    assert alone.fault_of(17) is whole.fault_of(17)
    assert alone.orders_per_cycle == whole.orders_per_cycle
