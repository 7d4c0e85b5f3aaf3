"""`make bench`: measure this service beside others that do the same work, on private real servers.

python -m benchmarks                 everything, 20 to 25 minutes
python -m benchmarks --quick         the same in 2 minutes: does it run, not how fast
python -m benchmarks --growth        what must not grow: claim, throughput, memory, idle cost
python -m benchmarks --memory 1000000    resident memory over so many orders
"""

from __future__ import annotations

import asyncio
import signal
import statistics
import sys
from collections.abc import Coroutine
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console

from benchmarks import report
from benchmarks.contestants import CONTESTANTS, ROOT, Contestant, prepare
from benchmarks.growth import growth as measure_growth
from benchmarks.growth import over_many_orders
from benchmarks.latency import WARM_UP_SECONDS, latencies
from benchmarks.measure import Throughput, throughput
from benchmarks.stage import Servers, Wrong
from tests.servers import ServersError

WARM_UP_ORDERS, QUICK_ORDERS = 1000, 500
QUICK_SCALE, QUICK_WARM_UP_SECONDS = 0.01, 1.0

console = Console()


def main(
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="A smoke test: two short rounds, numbers mean nothing.")
    ] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Of throughput, interleaved.")] = 3,
    seconds: Annotated[
        float, typer.Option(min=1, help="About how long one measurement lasts.")
    ] = 12,
    latency_rounds: Annotated[int, typer.Option(min=0, help="Of latency, interleaved.")] = 2,
    only: Annotated[
        str,
        typer.Option(
            help="Contestants, comma-separated: " + ", ".join(c.name for c in CONTESTANTS)
        ),
    ] = "",
    growth: Annotated[
        bool, typer.Option("--growth", help="The other mode: what must not grow.")
    ] = False,
    scale: Annotated[float, typer.Option(help="--growth: share of the full row counts.")] = 1.0,
    memory: Annotated[
        int, typer.Option(min=0, help="The third mode: memory over so many orders, a long run.")
    ] = 0,
    keep: Annotated[
        bool, typer.Option("--keep", help="Fill docs/performance.md with this run.")
    ] = False,
) -> None:
    """Measure this service beside others, on real servers started for it."""
    # Told to end, it ends as by Ctrl-C: its servers and contestants end with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Servers.found() as servers:
            if growth:
                run = _run(_growth(servers, QUICK_SCALE if quick else scale, quick=quick))
            elif memory:
                run = _run(_memory(servers, memory))
            else:
                contestants = _chosen(only)
                plan = _Plan(1, 2.0, 1) if quick else _Plan(rounds, seconds, latency_rounds)
                run = _run(_compare(servers, contestants, plan, quick=quick))
    except ServersError as error:
        _fail(str(error))
    except Wrong as error:
        _fail(f"Measured nothing that means anything: {error}")
    except KeyboardInterrupt:
        _fail("Ended before it was done; the servers are gone.")
    report.show(run, console)
    path = report.save(run)
    console.print(f"Written: {path.relative_to(ROOT)} and its plots", highlight=False)
    if keep:
        report.keep(run, path)
        console.print("docs/performance.md tells of this run now.", highlight=False)


class _Plan:
    """How much is measured."""

    def __init__(self, rounds: int, seconds: float, latency_rounds: int) -> None:
        self.rounds, self.seconds, self.latency_rounds = rounds, seconds, latency_rounds


async def _compare(
    servers: Servers, contestants: tuple[Contestant, ...], plan: _Plan, *, quick: bool
) -> report.Run:
    run = report.new_run(
        servers,
        {"rounds": plan.rounds, "seconds": plan.seconds, "latency rounds": plan.latency_rounds},
    )
    amounts = dict.fromkeys((each.name for each in contestants), QUICK_ORDERS)
    for each in () if quick else contestants:
        # Thrown away, but for this: how many orders keep the contestant busy for so long.
        warm = await throughput(servers, each, WARM_UP_ORDERS)
        lasting = round(warm.orders_per_second * plan.seconds, -2)
        amounts[each.name] = max(int(lasting), WARM_UP_ORDERS)
        _tell("warm-up", warm)
    for number in range(1, plan.rounds + 1):
        for each in contestants:
            run.throughput.append(await throughput(servers, each, amounts[each.name]))
            _tell(f"round {number} of {plan.rounds}", run.throughput[-1])
    for number in range(1, plan.latency_rounds + 1):
        for each in contestants:
            if each.timed:
                capacity = statistics.median(run.column(each.name, "orders_per_second"))
                warm_up = QUICK_WARM_UP_SECONDS if quick else WARM_UP_SECONDS
                found = await latencies(
                    servers, each, capacity, seconds=plan.seconds, warm_up_seconds=warm_up
                )
                run.latency += found
                p99 = ", ".join(f"{one.p99:.0f} ms at {one.load:.0%}" for one in found)
                console.print(
                    f"latency {number} of {plan.latency_rounds}  {each.name}: p99 {p99}",
                    highlight=False,
                )
    return run


async def _growth(servers: Servers, scale: float, *, quick: bool) -> report.Run:
    run = report.new_run(servers, {"scale": scale})
    run.growth = await measure_growth(
        servers,
        scale=scale,
        orders_per_state=QUICK_ORDERS if quick else 10_000,
        idle_seconds=10 if quick else 60,
        tell=_tell_line,
    )
    return run


async def _memory(servers: Servers, orders: int) -> report.Run:
    run = report.new_run(servers, {"orders": orders})
    run.memory = await over_many_orders(servers, orders, _tell_line)
    return run


def _tell_line(line: str) -> None:
    console.print(line, highlight=False)


def _chosen(only: str) -> tuple[Contestant, ...]:
    names = {name.strip() for name in only.split(",") if name.strip()}
    known = {each.name for each in CONTESTANTS}
    if unknown := names - known:
        _fail(f"No such contestants: {', '.join(sorted(unknown))}. There are: {', '.join(known)}.")
    return prepare(tuple(each for each in CONTESTANTS if not names or each.name in names))


def _run(work: Coroutine[Any, Any, report.Run]) -> report.Run:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _tell(when: str, found: Throughput) -> None:
    console.print(
        f"{when}  {found.contestant}: {found.orders_per_second:,.0f} orders/s "
        f"({found.orders:,} in {found.seconds:.1f} s), {found.cpu_microseconds:,.0f} µs of CPU",
        highlight=False,
    )


def _fail(message: str) -> None:
    console.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(1)


if __name__ == "__main__":
    typer.run(main)
