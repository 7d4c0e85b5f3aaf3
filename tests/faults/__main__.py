"""`make faults`: break the service and its servers under load, and check that nothing is lost.

python -m tests.faults                                    ten cycles
python -m tests.faults --cycles 200 --orders 100000       the long run, about an hour and a half
python -m tests.faults --seed 7 --first 12 --cycles 1     cycle 12 of seed 7 once more
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tests.faults.campaign import Campaign, Plan
from tests.faults.registry import Fault, all_faults
from tests.faults.report import Report
from tests.processes import ROOT
from tests.servers import ServersError


def main(
    *,
    seed: Annotated[int, typer.Option(help="What is left to chance is drawn from it.")] = 1,
    cycles: Annotated[int, typer.Option(min=1, help="Faults to inject, one after the other.")] = 10,
    first: Annotated[int, typer.Option(min=1, help="Start at this cycle of the seed.")] = 1,
    orders: Annotated[
        int, typer.Option(min=0, help="Messages of all cycles; the load goes on under each fault.")
    ] = 0,
    rate: Annotated[float, typer.Option(min=1, help="Messages per second.")] = 100,
    only: Annotated[str, typer.Option(help="Faults, comma-separated; else all.")] = "",
    skip: Annotated[str, typer.Option(help="Faults to leave out, comma-separated.")] = "",
    report: Annotated[Path | None, typer.Option(help="Write the report here, as JSON.")] = None,
) -> None:
    """Inject faults under load, and judge after each."""
    # Told to end, it ends as by Ctrl-C: its servers and services end with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # They tell of each failed attempt to connect to a broker that was killed on purpose.
    for noisy in ("aiormq", "aio_pika"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    plan = Plan(seed, cycles, orders, rate, _chosen(only, skip), first)
    typer.echo(f"seed {seed}, commit {commit()}, faults {', '.join(_names(plan))}")
    folder = Path(tempfile.mkdtemp(prefix="orders-faults-"))
    campaign = Campaign(plan, folder, commit=commit(), tell=typer.echo, judges_speed=True)
    found = campaign.report
    try:
        asyncio.run(campaign.run())
    except ServersError as error:
        shutil.rmtree(folder)
        sys.exit(str(error))
    except KeyboardInterrupt:
        typer.echo("Ended before it was done; the servers are gone.", err=True)
    finally:
        # Also of a campaign that ends by an error of its own.
        if report is not None:
            report.parent.mkdir(parents=True, exist_ok=True)
            report.write_text(json.dumps(found.as_json(), indent=2) + "\n")
    typer.echo(json.dumps(found.as_json(), indent=2))
    if found.wrong:
        _tell_wrong(found, plan)
    if found.wrong or len(found.cycles) < cycles:
        sys.exit(1)
    shutil.rmtree(folder)


def _chosen(only: str, skip: str) -> tuple[Fault, ...]:
    there = all_faults()
    wanted = _words(only) or list(there)
    unwanted = _words(skip)
    if unknown := sorted({*wanted, *unwanted} - set(there)):
        sys.exit(f"No such fault: {', '.join(unknown)}. There are: {', '.join(there)}")
    return tuple(there[name] for name in sorted(wanted) if name not in unwanted)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _names(plan: Plan) -> list[str]:
    return [fault.name for fault in plan.faults]


def _tell_wrong(found: Report, plan: Plan) -> None:
    typer.echo("\n".join(["", *found.wrong, "", f"Evidence: {found.evidence}", "Again:"]))
    share = plan.orders_per_cycle
    same = f"--seed {plan.seed} --rate {plan.rate:g} --only {','.join(_names(plan))}"
    failed = found.cycles[-1].number
    whole = f"--first {plan.first} --cycles {failed - plan.first + 1}"
    orders = share * (failed - plan.first + 1)
    typer.echo(f"  python -m tests.faults {same} {whole} --orders {orders}")
    typer.echo(f"  python -m tests.faults {same} --first {failed} --cycles 1 --orders {share}")


def commit() -> str:
    """Of the code that is tried; `unknown` outside a repository."""
    said = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or "unknown"


if __name__ == "__main__":
    typer.run(main)
