"""Cycle after cycle of one fault under a steady load, rest, and judgement.

Everything that is left to chance is drawn from the seed and the number of the cycle: the same
command injects the same faults at the same moments of the load. Faults come from a shuffled deck
of all that were chosen, so each comes once before any comes again.
"""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from tests.faults.registry import Fault
from tests.faults.report import Cycle, Report
from tests.faults.setting import Servers, StageOptions, in_thread
from tests.faults.stage import Rest, Stage
from tests.faults.verdict import Sums, Verdict
from tests.servers import ServersError
from tests.servers.server import PrivateServer

__all__ = ["Campaign", "Plan", "Report"]

LONGEST_LEAD_SECONDS = 3.0


@dataclass(frozen=True)
class Plan:
    """What a campaign does: `orders` are those of all cycles, `rate` is per second."""

    seed: int
    cycles: int
    orders: int
    rate: float
    faults: tuple[Fault, ...]
    first: int = 1

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + self.cycles)

    @property
    def orders_per_cycle(self) -> int:
        return -(-self.orders // self.cycles)

    def seed_of(self, cycle: int) -> int:
        """Of the workload of a stage that is opened for this cycle."""
        return self.seed * 10_000 + cycle

    def fault_of(self, cycle: int) -> Fault:
        """Dealt from a deck that is shuffled anew each time it is through.

        In a deck, those that need the same kind of stage come together.
        """
        deck, place = divmod(cycle - 1, len(self.faults))
        shuffled = random.Random(f"deck {self.seed} {deck}").sample(self.faults, len(self.faults))
        kinds = [each.options for each in shuffled]
        return sorted(shuffled, key=lambda each: kinds.index(each.options))[place]


class Campaign:
    """Runs a plan. Ends at the first thing that is wrong, and keeps the evidence of it."""

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        *,
        servers: Servers | None = None,
        commit: str = "unknown",
        tell: Callable[[str], None] = print,
        judges_speed: bool = False,
    ) -> None:
        """With `judges_speed`, what takes longer than its bound is wrong, else only what never
        comes: bounds are those of a machine that does nothing else."""
        self._plan = plan
        self._folder = folder
        self._servers = servers
        self._tell = tell
        self._judges_speed = judges_speed
        self.report = Report(plan.seed, commit)
        self._stages = AsyncExitStack()
        self._stage: Stage | None = None
        self._options: StageOptions | None = None
        self._before = Sums()
        """Of the stages that are closed."""

    async def run(self) -> Report:
        chosen = nullcontext(self._servers) if self._servers else Servers.private()
        async with in_thread(chosen) as servers, self._stages:
            self.report.versions = {
                "database": servers.database.version,
                "broker": servers.broker.version,
            }
            self._tell(f"database {servers.database.version}, RabbitMQ {servers.broker.version}")
            for number in self._plan.numbers:
                fault = self._plan.fault_of(number)
                stage = await self._stage_for(fault, servers, number)
                cycle = await self._cycle(stage, fault, number)
                self._tell(str(cycle))
                if cycle.wrong:
                    self.report.evidence = stage.folder
                    self._keep(stage)
                    break
        return self.report

    async def _stage_for(self, fault: Fault, servers: Servers, number: int) -> Stage:
        """The one that is open, if it is of the kind that the fault needs, else a new one."""
        if self._stage is None or fault.options != self._options:
            await self._stages.aclose()
            self._before, self._options = self.report.sums, fault.options
            options = replace(fault.options, rate=self._plan.rate, seed=self._plan.seed_of(number))
            folder = self._folder / f"stage-{number}"
            self._stage = await self._stages.enter_async_context(
                Stage.open(folder, options, servers)
            )
        return self._stage

    async def _cycle(self, stage: Stage, fault: Fault, number: int) -> Cycle:
        """Load, fault under load, rest, judgement."""
        rng = random.Random(f"cycle {self._plan.seed} {number}")
        cycle = Cycle(number, fault.name)
        started, produced = time.monotonic(), stage.producer.produced
        stage.producer.resume()
        await asyncio.sleep(rng.uniform(0, LONGEST_LEAD_SECONDS))
        try:
            cycle.measurements = await fault.inject(stage, rng)
        except (AssertionError, TimeoutError, ServersError) as error:
            cycle.wrong.append(f"{type(error).__name__}: {error}")
            await stage.heal()
        cycle.wrong += [
            f"{each.what}: {each.seconds:.1f} s, at most {each.bound:g}"
            for each in cycle.measurements
            if not (each.kept if self._judges_speed else each.came)
        ]
        await stage.producer.produced_at_least(produced + self._plan.orders_per_cycle)
        rest = await stage.at_rest()
        verdict = await stage.verdict(parks=fault.parks)
        cycle.wrong += _wrong(rest, verdict)
        if count := stage.wrong_acknowledgements():
            cycle.wrong.append(f"{count} channels closed by the broker: unknown delivery tag")
        await stage.empty_outputs()
        cycle.rest_seconds, cycle.seconds = rest.seconds, time.monotonic() - started
        cycle.orders = stage.producer.produced - produced
        self.report.cycles.append(cycle)
        self.report.verdict = verdict
        self.report.sums = self._before.plus(verdict.sums)
        return cycle

    def _keep(self, stage: Stage) -> None:
        """Beside the journals and the services' logs: what was concluded, and the servers' logs."""
        assert self.report.verdict is not None
        verdict = json.dumps(self.report.verdict.as_json(), indent=2)
        (stage.folder / "verdict.json").write_text(verdict)
        for server in (stage.database, stage.broker):
            if isinstance(server, PrivateServer):
                name = server.title.removeprefix("the ").replace(" ", "-")
                shutil.copy(server.log, stage.folder / f"{name}.log")


def _wrong(rest: Rest, verdict: Verdict) -> list[str]:
    wrong = [] if rest.reached else [f"not at rest after {rest.seconds:.0f} s: {rest.waiting}"]
    return wrong + [
        f"{name}: {each.count}, such as {each.examples[0]}"
        for name, each in verdict.violations.items()
    ]
