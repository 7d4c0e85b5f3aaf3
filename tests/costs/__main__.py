"""python -m tests.costs --minutes 10 --seed 1: search for messages that cost more than they may."""

from __future__ import annotations

import random
import time
from typing import Annotated

import typer

from tests.costs.genes import Genes
from tests.costs.measure import LIMIT, Cost
from tests.costs.search import Search


def tell(genes: Genes, cost: Cost) -> None:
    message = genes.message()
    print(
        f"CPU {cost.cpu:4.1f}, memory {cost.memory:4.1f} plain orders of {message.size:,} bytes: "
        f"{message.body[:60]!r} … {message.body[-20:]!r}, headers {message.headers[:40]!r}",
        flush=True,
    )


def main(
    *,
    minutes: Annotated[float, typer.Option(min=0.1)] = 10,
    seed: Annotated[int, typer.Option(help="The same seed tries the same changes.")] = 1,
) -> None:
    """Search, print what costs most, and fail where that is more than is allowed."""
    search, ends = Search(random.Random(seed)), time.monotonic() + 60 * minutes
    while time.monotonic() < ends:
        search.run_once()
    print(f"seed {seed}: {search.tried:,} messages tried")
    for genes, cost in search.worst(10):
        tell(genes, cost)
    if any(cost.worst > LIMIT for _, cost in search.worst(1)):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
