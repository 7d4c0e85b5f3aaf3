"""The long run of the races: copies of keys, then relays on one outbox, on one stage.

    python -m tests.faults.races --keys 1000 --copies 64 --events 5000 --report races.json

Where something does not hold, the stage's journals and logs are kept, and it says where.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from tests.faults.backlog import race_for_events
from tests.faults.contest import Contest, race_for_keys
from tests.faults.setting import Servers, StageOptions, in_thread
from tests.faults.stage import Stage
from tests.servers import ServersError


async def run(
    folder: Path, *, keys: int, copies: int, events: int, processes: int, seed: int
) -> dict[str, Any]:
    """Both races, one after the other; what became of them."""
    options = StageOptions(processes=processes, seed=seed)
    async with in_thread(Servers.private()) as servers:
        told: dict[str, Any] = {
            "seed": seed,
            "processes": processes,
            "versions": {each.title: each.version for each in (servers.database, servers.broker)},
        }
        async with Stage.open(folder, options, servers) as stage:
            contest = await race_for_keys(stage, Contest(seed, keys, copies))
            told["keys"] = {
                "keys": keys,
                "sent": contest.sent,
                "seconds": round(contest.seconds, 1),
                "wrong": contest.wrong,
                **contest.verdict.as_json(),
            }
            print(json.dumps(told, indent=1), flush=True)
            drained = await race_for_events(stage, events)
            told["events"] = {
                "events": drained.events,
                "seconds": round(drained.seconds, 1),
                "deliveries": drained.deliveries,
                "duplicated": drained.duplicated,
                "published by each process": drained.shares,
                "wrong": drained.wrong,
            }
    return told


def main(
    *,
    keys: Annotated[int, typer.Option(min=1)] = 1000,
    copies: Annotated[int, typer.Option(min=3, help="Messages under each key.")] = 64,
    events: Annotated[int, typer.Option(min=1, help="In the outbox when all go.")] = 5000,
    processes: Annotated[int, typer.Option(min=1, help="Service processes.")] = 4,
    seed: Annotated[int, typer.Option(help="What is left to chance is drawn from it.")] = 1,
    report: Annotated[Path | None, typer.Option(help="Write the report here, as JSON.")] = None,
) -> None:
    """Race service processes for keys, then relays for events, and judge."""
    # Told to end, it ends as by Ctrl-C: its servers and services end with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for noisy in ("aiormq", "aio_pika"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="orders-races-"))
    racing = run(folder, keys=keys, copies=copies, events=events, processes=processes, seed=seed)
    try:
        told = asyncio.run(racing)
    except ServersError as error:
        shutil.rmtree(folder)
        sys.exit(str(error))
    print(json.dumps(told["events"], indent=1))
    if report is not None:
        report.write_text(json.dumps(told, indent=1) + "\n")
    if told["keys"]["wrong"] or told["events"]["wrong"]:
        sys.exit(f"It does not hold; journals and logs are in {folder}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
