"""What the dearest messages cost the orders among them: timed, on private real servers.

python -m benchmarks.dear                  three rounds of each kind, about 4 minutes

Small orders stand among messages that cost most for their size (tests.costs found them), or among
as many plain orders of that size. The clock runs from the first delivery until the last small
order's event is out. Among dear messages the small orders are to keep half of their throughput or
more, the process stays under 400 MiB, and it never loses its link.
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from benchmarks.contestants import CONTESTANTS, LOGS, Running
from benchmarks.measure import until_first_delivery, until_processed, until_settled
from benchmarks.stage import Servers, Stage, Wrong
from benchmarks.workload import messages

(SERVICE,) = (contestant for contestant in CONTESTANTS if contestant.name == "service")
SIZE = 256 * 1024
LEAST_RATIO = 0.5
MOST_RESIDENT = 400 * 1024 * 1024
LOST = ("consuming-stopped", "broker-waiting")

console = Console()


def plain(number: int) -> bytes:
    """A valid order of the largest size."""
    line = b'{"sku":"85123A","quantity":6,"unitPrice":"2.55"}'
    return _order(number) + b",".join([line] * 4800) + b"]}"


def _order(number: int) -> bytes:
    name = b'"dear-%d"' % number
    return b'{"orderId":%s,"userId":"u","totalAmount":1,"idempotencyKey":%s,"items":[' % (
        name,
        name,
    )


DEAR: dict[str, Callable[[int], bytes]] = {
    "87,000 empty items": lambda number: _order(number) + b"{}," * 86_000 + b"{}]}",
    "30 levels, 4,200 times": lambda number: (
        b'["%d",' % number + (b"[" * 30 + b"]" * 30 + b",") * 4200 + b"0]"
    ),
    "1 MiB of 0xff": lambda number: b"%d" % number + b"\xff" * (1024 * 1024 - 20),
}


@dataclass(frozen=True)
class Measurement:
    """One run: orders among large messages of one kind."""

    kind: str
    orders_per_second: float
    resident_peak: int


def among(large: Callable[[int], bytes], size: int, orders: int) -> Iterator[bytes]:
    """Ten small orders to each large message; of messages over 256 KiB fewer, as many bytes."""
    for number, order in enumerate(messages("order", orders)):
        if number % max(10 * size // SIZE, 1) == 0:
            yield large(number)
        yield order


async def measure(servers: Servers, kind: str, orders: int) -> Measurement:
    """Measure once, on a stage of its own.

    Raises:
        Wrong: the service stood still, or lost its link.
    """
    large = DEAR.get(kind, plain)
    sent = list(among(large, len(large(0)), orders))
    async with Stage.on(servers) as stage:
        count = await stage.preload(iter(sent))
        expected = orders if kind in DEAR else count
        with Running.of(SERVICE, stage.environment) as running:
            await until_first_delivery(stage, running, count)
            started = time.monotonic()
            await until_processed(stage, running, expected)
            seconds = time.monotonic() - started
            await until_settled(stage, SERVICE)
            peak = running.usage().peak_bytes
            said = (LOGS / f"{SERVICE.name}.log").read_text(errors="replace")
        letters = stage.link.number("SELECT COUNT(*) FROM dead_letters")
    if lost := [action for action in LOST if action in said]:
        raise Wrong(f"{kind}: the link was lost ({', '.join(lost)})")
    if letters != count - expected:
        raise Wrong(f"{kind}: {letters} dead letters, not {count - expected}")
    return Measurement(kind, orders / seconds, peak)


async def _measure_all(orders: int, rounds: int) -> list[Measurement]:
    measured = []
    kinds = ["plain orders", *DEAR]
    with Servers.found() as servers:
        for number in range(1, rounds + 1):
            for kind in kinds[:: 1 if number % 2 else -1]:
                measured.append(found := await measure(servers, kind, orders))
                console.print(
                    f"round {number} of {rounds}  among {kind}: {found.orders_per_second:,.0f} "
                    f"orders/s, {found.resident_peak / 2**20:,.0f} MiB at most",
                    highlight=False,
                )
    return measured


def main(
    *,
    orders: Annotated[int, typer.Option(min=20, help="Small orders of a measurement.")] = 1000,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved.")] = 3,
) -> None:
    """Measure what the dearest messages cost the orders among them."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        measured = runner.run(_measure_all(orders, rounds))

    def median(kind: str) -> float:
        return statistics.median(each.orders_per_second for each in measured if each.kind == kind)

    ratios = {kind: median(kind) / median("plain orders") for kind in DEAR}
    for kind, ratio in ratios.items():
        console.print(f"among {kind}: {ratio:.0%} of the throughput", highlight=False)
    peak = max(each.resident_peak for each in measured)
    if min(ratios.values()) < LEAST_RATIO or peak > MOST_RESIDENT:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
