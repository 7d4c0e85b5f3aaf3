"""What poison costs the orders among it: timed, on private real servers.

python -m benchmarks.poison                    three rounds, about 4 minutes
python -m benchmarks.poison --json poison.json

Each measurement has the messages in the incoming queue, confirmed, before the service is started.
The clock runs from the first delivery until the last order's event is on the outgoing queue. With
1 % of poison, evenly among the orders, the orders' throughput is to be 90 % or more of what it is
without; behind a flood, of 10 times as many poison messages as orders, they still get through.
"""

from __future__ import annotations

import asyncio
import json
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console

from benchmarks.contestants import CONTESTANTS, Running
from benchmarks.measure import MICRO, until_first_delivery, until_processed, until_settled
from benchmarks.stage import Servers, Stage, Wrong
from benchmarks.workload import messages

(SERVICE,) = (contestant for contestant in CONTESTANTS if contestant.name == "service")
LEAST_RATIO = 0.9
FLOOD = 10

console = Console()


@dataclass(frozen=True)
class Scenario:
    """So many poison messages for each order, evenly among them."""

    name: str
    poison_per_order: float


CLEAN, SPRINKLED, FLOODED = SCENARIOS = (
    Scenario("no poison", 0),
    Scenario("1 % poison", 0.01),
    Scenario(f"a flood: {FLOOD} for each order", FLOOD),
)


@dataclass(frozen=True)
class Measurement:
    """One run of one scenario."""

    scenario: str
    orders: int
    poison: int
    seconds: float
    orders_per_second: float
    messages_per_second: float
    cpu_microseconds: float
    """Of the service, for each order."""
    commits: int
    statements: int


def poison(number: int) -> bytes:
    """Each kind in turn: no JSON, no order, no UTF-8."""
    kinds = (
        b'{"orderId": "poison-%d',
        b'{"orderId": "poison-%d", "items": []}',
        b'"poison-%d \xff"',
    )
    return kinds[number % len(kinds)] % number


def mixed(orders: int, scenario: Scenario) -> Iterator[bytes]:
    """The orders, with the scenario's share of poison in between, an order at the end."""
    sent = 0
    for number, order in enumerate(messages("order", orders), 1):
        while sent < int(number * scenario.poison_per_order):
            yield poison(sent)
            sent += 1
        yield order


async def measure(servers: Servers, scenario: Scenario, orders: int) -> Measurement:
    """Measure once, on a stage of its own.

    Raises:
        Wrong: an order or a dead letter is missing, or there twice, or the service stood still.
    """
    async with Stage.on(servers) as stage:
        count = await stage.preload(mixed(orders, scenario))
        with Running.of(SERVICE, stage.environment) as running:
            counters = stage.link.counters()
            await until_first_delivery(stage, running, count)
            started, used = time.monotonic(), running.usage()
            await until_processed(stage, running, orders)
            seconds = time.monotonic() - started
            await until_settled(stage, SERVICE)
            usage = running.usage()
            counted = stage.link.counters().since(counters)
        await _check(stage, orders, count - orders)
    return Measurement(
        scenario=scenario.name,
        orders=orders,
        poison=count - orders,
        seconds=seconds,
        orders_per_second=orders / seconds,
        messages_per_second=count / seconds,
        cpu_microseconds=(usage.cpu_seconds - used.cpu_seconds) / orders * MICRO,
        commits=counted.commit,
        statements=counted.statements,
    )


async def _check(stage: Stage, orders: int, poisoned: int) -> None:
    stored = stage.link.orders()
    letters = stage.link.number("SELECT COUNT(*) FROM dead_letters")
    failed = (await stage.depth(stage.topology.failed.name)).ready
    copies = (await stage.depth(stage.topology.dead_letters.name)).ready
    if (stored, letters, failed, copies) != (orders, poisoned, poisoned, poisoned):
        raise Wrong(
            f"{stored} of {orders} orders, and of {poisoned} poison messages {letters} dead "
            f"letters, {failed} OrderFailed, {copies} copies"
        )


def ratio(measured: list[Measurement], column: str) -> float:
    """What a column is with 1 % of poison, as a share of what it is without: of the medians."""

    def median(scenario: Scenario) -> float:
        return statistics.median(
            float(getattr(each, column)) for each in measured if each.scenario == scenario.name
        )

    return median(SPRINKLED) / median(CLEAN)


async def _measure_all(orders: int, flooded: int, rounds: int) -> list[Measurement]:
    measured = []
    with Servers.found() as servers:
        await measure(servers, CLEAN, orders // 4)  # the servers' caches, not counted
        for number in range(1, rounds + 1):
            # To and fro, or whatever grows meanwhile would be counted as poison's.
            for scenario in SCENARIOS[:: 1 if number % 2 else -1]:
                amount = flooded if scenario is FLOODED else orders
                measured.append(await measure(servers, scenario, amount))
                _tell(f"round {number} of {rounds}", measured[-1])
    return measured


def _tell(when: str, found: Measurement) -> None:
    console.print(
        f"{when}  {found.scenario}: {found.orders_per_second:,.0f} orders/s, "
        f"{found.messages_per_second:,.0f} messages/s ({found.orders:,} orders and "
        f"{found.poison:,} poison in {found.seconds:.1f} s, {found.commits:,} commits), "
        f"{found.cpu_microseconds:,.0f} µs of CPU an order",
        highlight=False,
        soft_wrap=True,
    )


def main(
    *,
    orders: Annotated[int, typer.Option(min=100, help="Of a measurement.")] = 5000,
    flooded: Annotated[int, typer.Option(min=10, help="Orders in the flood.")] = 500,
    rounds: Annotated[int, typer.Option(min=1, help="Interleaved.")] = 3,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the measurements there.")
    ] = None,
) -> None:
    """Measure what poison costs, and say whether it is little enough."""
    # Told to end, it ends as by Ctrl-C: its servers and the service end with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        measured = runner.run(_measure_all(orders, flooded, rounds))
    found, cpu = (ratio(measured, name) for name in ("orders_per_second", "cpu_microseconds"))
    console.print(
        f"With 1 % of poison: {found:.1%} of the throughput, {cpu:.1%} of the CPU an order.",
        highlight=False,
    )
    if json_path is not None:
        written = {
            "throughput": found,
            "cpu": cpu,
            "measurements": [asdict(each) for each in measured],
        }
        json_path.write_text(json.dumps(written, indent=2) + "\n")
    if found < LEAST_RATIO:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
