"""The long run: each point of the links struck again and again, on a stage of its own.

    python -m tests.faults.links --times 100 --report links.json

Where something does not hold, the stage's journals and logs are kept, and it says where.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import shutil
import signal
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from tests.faults.link_faults import HITS, LATEST_HIT, LINKED, LINKS
from tests.faults.points import POINTS, name_of
from tests.faults.registry import Measurement
from tests.faults.setting import Servers, in_thread
from tests.faults.stage import Stage
from tests.faults.verdict import Verdict

EVERYTHING = {name_of(point, action): (point, action) for action in HITS for point in POINTS}


@dataclass(frozen=True)
class Outcome:
    """What became of a point that was to be struck `times`, and was `hit` so often."""

    name: str
    times: int
    hit: int
    measurements: Sequence[Measurement]
    verdict: Verdict
    at_rest: bool

    @property
    def holds(self) -> bool:
        in_time = all(each.kept for each in self.measurements)
        return self.hit == self.times and self.at_rest and in_time and self.verdict.holds

    def as_json(self) -> dict[str, Any]:
        taken = defaultdict[str, list[float]](list)
        for each in filter(lambda measured: measured.came, self.measurements):
            taken[each.what].append(each.seconds)
        return {
            "point": self.name,
            "hit": self.hit,
            "at rest": self.at_rest,
            "seconds": {
                what: {"median": round(statistics.median(each), 2), "longest": round(max(each), 2)}
                for what, each in taken.items()
            },
            **self.verdict.as_json(),
            "holds": self.holds,
        }


async def strike_often(stage: Stage, name: str, times: int, rng: random.Random) -> Outcome:
    """Strike one point under load until it is missed once, wait for rest, and judge."""
    point, action = EVERYTHING[name]
    stage.producer.resume()
    measured: list[Measurement] = []
    hit = 0
    try:
        while hit < times:
            measured += await LINKS.strike(point, action, nth=rng.randint(1, LATEST_HIT))
            hit += 1
    except TimeoutError:
        print(f"{name}: not met after {hit} times", flush=True)
    rest = await stage.at_rest()
    return Outcome(name, times, hit, measured, await stage.verdict(), rest.reached)


async def strike_all(
    names: Sequence[str], times: int, seed: int, rate: float, report: Path | None
) -> bool:
    """Strike each so many times; whether everything held. The report grows with each."""
    outcomes: list[dict[str, Any]] = []
    options = replace(LINKED, rate=rate, seed=seed)
    async with in_thread(Servers.private()) as servers:
        versions = {each.title: each.version for each in (servers.database, servers.broker)}
        for name in names:
            folder = Path(tempfile.mkdtemp(prefix="orders-links-"))
            async with Stage.open(folder, options, servers) as stage:
                rng = random.Random(f"{name} {seed}")
                outcome = await strike_often(stage, name, times, rng)
            outcomes.append(outcome.as_json())
            print(json.dumps(outcomes[-1]), flush=True)
            if outcome.holds:
                shutil.rmtree(folder)
            else:
                print(f"{name}: journals and logs are in {folder}", flush=True)
            if report is not None:
                told = {"seed": seed, "rate": rate, "versions": versions, "points": outcomes}
                report.write_text(json.dumps(told, indent=1) + "\n")
    return all(each["holds"] for each in outcomes)


def main(
    *,
    times: Annotated[int, typer.Option(min=1, help="Strikes at each point.")] = 100,
    seed: Annotated[int, typer.Option(help="What is left to chance is drawn from it.")] = 1,
    rate: Annotated[float, typer.Option(min=1, help="Messages per second.")] = 60,
    only: Annotated[str, typer.Option(help="Points, comma-separated; else all.")] = "",
    report: Annotated[Path | None, typer.Option(help="Write the report here, as JSON.")] = None,
) -> None:
    """Cut and freeze links at chosen points under load, and judge after each point."""
    # Told to end, it ends as by Ctrl-C: its servers and services end with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for noisy in ("aiormq", "aio_pika"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    names = [name.strip() for name in only.split(",") if name.strip()] or list(EVERYTHING)
    if unknown := sorted(set(names) - set(EVERYTHING)):
        sys.exit(f"No such point: {', '.join(unknown)}. There are: {', '.join(EVERYTHING)}")
    held = asyncio.run(strike_all(names, times, seed, rate, report))
    sys.exit(0 if held else 1)


if __name__ == "__main__":
    typer.run(main)
