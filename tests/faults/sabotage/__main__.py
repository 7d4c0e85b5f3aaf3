"""`python -m tests.faults.sabotage`: break the service, and see that the checker sees it."""

from __future__ import annotations

import asyncio
import logging
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tests.faults.sabotage.catalogue import SABOTAGES, Sabotage
from tests.faults.sabotage.patch import NotApplicableError
from tests.faults.sabotage.scenes import SCENES
from tests.faults.sabotage.trial import UNSABOTAGED, Outcome, Trial
from tests.faults.setting import Servers, in_thread
from tests.servers import ServersError


def main(
    *,
    listed: Annotated[bool, typer.Option("--list", help="Tell the sabotages, as a table.")] = False,
    only: Annotated[str, typer.Option(help="Sabotages, comma-separated; else all.")] = "",
) -> None:
    """Play each sabotage in its scene, beside the service as it is."""
    if listed:
        typer.echo(table())
        return
    # Told to end, it ends as by Ctrl-C: its servers and services end with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for noisy in ("aiormq", "aio_pika"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    try:
        as_expected = asyncio.run(_play(_chosen(only)))
    except (ServersError, NotApplicableError) as error:
        sys.exit(str(error))
    sys.exit(0 if as_expected else 1)


def table() -> str:
    """In Markdown: what is broken, and what turns red."""
    rows = [f"| `{each.name}` | {each.breaks} | `{each.seen_by}` |" for each in SABOTAGES]
    return "\n".join(["| sabotage | what is broken | what turns red |", "|---|---|---|", *rows])


def _chosen(only: str) -> list[Sabotage]:
    wanted = {word.strip() for word in only.split(",") if word.strip()}
    if unknown := sorted(wanted - {each.name for each in SABOTAGES}):
        sys.exit(f"No such sabotage: {', '.join(unknown)}")
    return [each for each in SABOTAGES if not wanted or each.name in wanted]


async def _play(sabotages: list[Sabotage]) -> bool:
    """Whether the checker saw all of them, and nothing where nothing is broken."""
    unexpected: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="orders-sabotage-"))
    async with in_thread(Servers.private()) as servers:
        for scene in SCENES:
            if concerned := [each for each in sabotages if each.scene is scene]:
                outcomes = await Trial(scene, concerned, folder / scene.name).run(servers)
                unexpected += [
                    name for name, outcome in outcomes.items() if not _told(name, outcome)
                ]
    if unexpected:
        typer.echo(f"Not as expected: {', '.join(unexpected)}. Evidence: {folder}")
    else:
        shutil.rmtree(folder)
    return not unexpected


def _told(name: str, outcome: Outcome) -> bool:
    """Tell an outcome; whether it is the one that was expected."""
    typer.echo(f"{name}: {', '.join(sorted(outcome.broken)) or 'holds'}")
    if name == UNSABOTAGED:
        expected = outcome.holds
    else:
        sabotage = next(each for each in SABOTAGES if each.name == name)
        expected = outcome.shows(sabotage)
    if not expected:
        typer.echo(str(outcome))
    return expected


if __name__ == "__main__":
    typer.run(main)
