"""Many copies of each key, over many processes: one order each, whoever comes first.

Some copies say something else under the same key. Whichever content is stored first is the order;
the others are dead letters.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass

from tests.faults.producer import Producer
from tests.faults.setting import INCOMING
from tests.faults.stage import Stage
from tests.faults.verdict import Verdict
from tests.faults.workload import Input, Kind, Line, Order, Workload, written
from tests.patience import PATIENCE_SECONDS

RIVALS = 2
"""Of the copies of a key, so many say something else, each something of its own."""
KEYS_AT_ONCE = 8
"""Copies of so many keys are under way at a time, in any order."""
MOST_PER_SECOND = 5000.0
LEAST_PER_SECOND = 50


class Contest(Workload):
    """`copies` messages under each of `keys` keys; then, without end, more of the last key."""

    def __init__(self, seed: int, keys: int, copies: int) -> None:
        super().__init__(seed)
        self.keys = keys
        self._contest = seed
        rng = random.Random(f"contest {seed}")
        in_turn = [(key, copy) for key in range(keys) for copy in range(copies)]
        width = KEYS_AT_ONCE * copies
        groups = (in_turn[at : at + width] for at in range(0, len(in_turn), width))
        shuffled = [each for group in groups for each in rng.sample(group, len(group))]
        self.size = len(shuffled)
        self._to_come = iter(shuffled)
        self._last = (keys - 1, copies)
        self._made = 0

    def next(self) -> Input:
        key, copy = next(self._to_come, self._last)
        self._made += 1
        number, rival = self._made, copy < RIVALS
        name = f"{self._contest}-{key}"
        cents = 10_000 + copy if rival else 9_990
        order = Order(f"Race-{name}", f"User-{name}", cents, f"Key-{name}", (Line("tea", 1, "1"),))
        kind = Kind.KEY_CONFLICT if rival else Kind.DUPLICATE
        return Input(number, kind, order, lambda mark: written(order, number, mark), self._contest)


@dataclass(frozen=True, slots=True)
class ContestResult:
    """What became of `sent` messages under `keys` keys."""

    keys: int
    sent: int
    seconds: float
    at_rest: bool
    verdict: Verdict

    @property
    def wrong(self) -> list[str]:
        wrong = [] if self.at_rest else ["not at rest"]
        if self.verdict.sums.orders != self.keys:
            wrong.append(f"{self.verdict.sums.orders} orders of {self.keys} keys")
        return wrong + [
            f"{name}: {each.count}, such as {each.examples[0]}"
            for name, each in self.verdict.violations.items()
        ]


async def race_for_keys(stage: Stage, contest: Contest) -> ContestResult:
    """Send all copies as fast as the broker takes them, wait for rest, and judge.

    On a stage on which nothing was sent before.
    """
    producer = Producer(
        stage.mq_url,
        INCOMING,
        contest,
        rate=MOST_PER_SECOND,
        attempts=stage.journals.attempts,
        confirmed=stage.journals.confirmed,
    )
    started, patience = time.monotonic(), PATIENCE_SECONDS + contest.size / LEAST_PER_SECOND
    async with asyncio.timeout(patience), producer.running():
        producer.resume()
        await producer.produced_at_least(contest.size)
        producer.pause()
        await producer.all_confirmed()
    rest = await stage.at_rest(patience)
    seconds = time.monotonic() - started
    return ContestResult(
        contest.keys, producer.produced, seconds, rest.reached, await stage.verdict()
    )
