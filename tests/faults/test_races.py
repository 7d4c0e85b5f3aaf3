"""Four processes race for keys, and their relays for events: one effect each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.backlog import race_for_events
from tests.faults.contest import RIVALS, Contest, race_for_keys
from tests.faults.setting import Servers, StageOptions
from tests.faults.stage import Stage
from tests.faults.workload import Kind

KEYS, COPIES, EVENTS = 40, 64, 1500
# A processor that is busy may let one process publish all before another one wakes.
MOST_RACES = 10
FOUR = StageOptions(processes=4, seed=1)


@pytest.mark.servers
async def test_four_processes_make_one_order_of_a_keys_copies_and_let_out_all_of_a_full_outbox(
    servers_to_break: Servers, tmp_path: Path
) -> None:
    async with Stage.open(tmp_path, FOUR, servers_to_break) as stage:
        contest = await race_for_keys(stage, Contest(FOUR.seed, KEYS, COPIES))
        assert contest.wrong == []
        assert contest.sent >= KEYS * COPIES

        runners = 0
        for _ in range(MOST_RACES):
            drained = await race_for_events(stage, EVENTS)
            assert drained.wrong == []
            assert drained.duplicated >= 0
            assert sum(drained.shares) == EVENTS
            if (runners := sum(share > 0 for share in drained.shares)) > 1:
                break
        assert runners > 1, "no race with one runner"


def test_a_contest_has_all_copies_of_each_key_and_a_few_that_say_something_else() -> None:
    contest = Contest(1, KEYS, COPIES)
    there = [contest.next() for _ in range(contest.size)]
    assert len({each.attempt(1).body for each in there}) == KEYS * COPIES
    for key in {each.order.key for each in there}:
        copies = [each for each in there if each.order.key == key]
        assert len(copies) == COPIES
        assert len({each.order.cents for each in copies}) == RIVALS + 1
        assert sum(each.kind is Kind.KEY_CONFLICT for each in copies) == RIVALS


def test_a_contest_that_is_through_goes_on_with_copies_of_its_last_key() -> None:
    contest = Contest(1, KEYS, COPIES)
    there = [contest.next() for _ in range(contest.size + 2)]
    assert {each.order.key for each in there[-2:]} <= {each.order.key for each in there[:-2]}
    assert {each.kind for each in there[-2:]} == {Kind.DUPLICATE}
