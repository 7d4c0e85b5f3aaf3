"""What was measured, for people and for programs: a table, JSON, plots, and docs/performance.md."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.contestants import CONTESTANTS, ROOT
from benchmarks.growth import Growth, Memory
from benchmarks.latency import LOADS, Latency
from benchmarks.measure import Throughput
from benchmarks.plots import Bar, Points, bars, points
from benchmarks.stage import Servers

RUNS = ROOT / "run/bench"
DOCS = ROOT / "docs"
EVIDENCE = DOCS / "evidence"
PAGE = DOCS / "performance.md"
LIBRARIES = ("faststream", "aio-pika", "sqlalchemy", "aiomysql", "pydantic", "uvloop")
FILE_WIDTH = 160
TITLES = {each.name: each.title for each in CONTESTANTS}

Numbers = Sequence[float]


@dataclass
class Run:
    """Everything of one run."""

    made: str
    machine: dict[str, str]
    options: dict[str, Any]
    throughput: list[Throughput] = field(default_factory=list)
    latency: list[Latency] = field(default_factory=list)
    growth: Growth | None = None
    memory: Memory | None = None

    @property
    def kind(self) -> str:
        """Which of the three modes this is."""
        return "growth" if self.growth else "memory" if self.memory else "throughput"

    def column(self, contestant: str, name: str) -> list[float]:
        return [getattr(each, name) for each in self.throughput if each.contestant == contestant]

    def median(self, contestant: str, name: str) -> float:
        return statistics.median(self.column(contestant, name))

    def delays(self, contestant: str, load: float, name: str) -> list[float]:
        return [
            getattr(each, name)
            for each in self.latency
            if (each.contestant, each.load) == (contestant, load)
        ]

    @property
    def contestants(self) -> list[str]:
        return list(dict.fromkeys(each.contestant for each in self.throughput))

    @property
    def timed(self) -> list[str]:
        return list(dict.fromkeys(each.contestant for each in self.latency))


def new_run(servers: Servers, options: dict[str, Any]) -> Run:
    return Run(
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        machine={
            "processor": _processor(),
            "cores": str(os.cpu_count()),
            "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
            "system": f"Linux {platform.release().partition('-')[0]}",
            "python": platform.python_version(),
            "database": servers.database.version,
            "rabbitmq": servers.rabbit.version,
            "node": _node(),
            **{name: version(name) for name in LIBRARIES},
        },
        options=options,
    )


# The targets.


@dataclass(frozen=True)
class Target:
    what: str
    found: float
    bound: str
    met: bool


def targets(run: Run) -> list[Target]:
    """How this run stands to what the service must reach; those it says nothing about left out."""
    rows = []

    def add(what: str, found: float, bound: float, *, at_least: bool) -> None:
        sign = "≥" if at_least else "≤"
        met = found >= bound if at_least else found <= bound
        rows.append(Target(what, found, f"{sign} {bound:g}", met))

    there = set(run.contestants)
    if {"service", "naive"} <= there:
        add(
            "throughput ÷ naive, each at its better",
            _best(run, "service") / _best(run, "naive"),
            5,
            at_least=True,
        )
    if {"service", "node"} <= there:
        add(
            "throughput ÷ Node, each at its better",
            _best(run, "service") / _best(run, "node"),
            1,
            at_least=True,
        )
    if {"service", "floor"} <= there:
        cpu = run.median("service", "cpu_microseconds") / run.median("floor", "cpu_microseconds")
        add("client CPU per order ÷ floor", cpu, 1.25, at_least=False)
    if {"service", "service-2"} <= there:
        rate = "orders_per_second"
        add(
            "two workers ÷ one",
            run.median("service-2", rate) / run.median("service", rate),
            1.6,
            at_least=True,
        )
    if {"service", "floor"} <= set(run.timed):
        ours, floor = (run.delays(each, 0.5, "p99") for each in ("service", "floor"))
        add(
            "p99 latency at 50 % ÷ floor",
            statistics.median(ours) / statistics.median(floor),
            5,
            at_least=False,
        )
    return rows


def _best(run: Run, family: str) -> float:
    """Of one and of two processes, whichever is faster."""
    names = [name for name in run.contestants if name.partition("-")[0] == family]
    return max(run.median(name, "orders_per_second") for name in names)


# Tables, as rows of text: for the terminal and for the page.


def throughput_rows(run: Run) -> list[list[str]]:
    head = [
        "",
        "orders/s",
        "÷ naive",
        "CPU µs/order",
        "÷ floor",
        "peak MiB",
        "statements/order",
        "commits/order",
        "round trips/order",
    ]
    rows = [
        [
            name,
            spread(run.column(name, "orders_per_second"), "{:,.0f}"),
            _ratio(run, name, "naive", "orders_per_second"),
            spread(run.column(name, "cpu_microseconds"), "{:,.0f}"),
            _ratio(run, name, "floor", "cpu_microseconds"),
            spread(run.column(name, "peak_megabytes"), "{:,.0f}"),
            spread(run.column(name, "statements"), "{:.3g}"),
            spread(run.column(name, "commits"), "{:.3g}"),
            spread(run.column(name, "round_trips"), "{:.3g}"),
        ]
        for name in run.contestants
    ]
    return [head, *rows]


def latency_rows(run: Run) -> list[list[str]]:
    rows = [
        [
            "",
            "load",
            "orders/s",
            "p50 ms",
            "p95 ms",
            "p99 ms",
            "p99 ÷ floor",
            "CPU µs/order",
            "sender late p99 ms",
        ]
    ]
    for name in run.timed:
        for load in LOADS:
            p99 = run.delays(name, load, "p99")
            floor = run.delays("floor", load, "p99")
            rows.append(
                [
                    name,
                    f"{load:.0%}",
                    f"{statistics.median(run.delays(name, load, 'rate')):,.0f}",
                    *(spread(run.delays(name, load, p), "{:,.1f}") for p in ("p50", "p95", "p99")),
                    f"{statistics.median(p99) / statistics.median(floor):.2f}" if floor else "",
                    spread(run.delays(name, load, "cpu_microseconds"), "{:,.0f}"),
                    spread(run.delays(name, load, "sender_late_p99"), "{:,.1f}"),
                ]
            )
    return rows


def target_rows(run: Run) -> list[list[str]]:
    return [
        ["target", "found", "bound", ""],
        *(
            [each.what, f"{each.found:.2f}", each.bound, "met" if each.met else "missed"]
            for each in targets(run)
        ),
    ]


def growth_rows(found: Growth) -> list[list[str]]:
    head = ["outbox", "rows", "claim ms", "÷ control", "locks of a claim", "orders/s", "÷ control"]
    head += ["peak MiB", "÷ empty"]
    empty = found.states[0]
    rows = [
        [
            each.state,
            f"{each.rows:,}",
            f"{each.claim_milliseconds:.2f}",
            f"{each.claim_milliseconds / each.control_milliseconds:.2f}",
            str(each.rows_locked),
            f"{each.orders_per_second:,.0f}",
            f"{each.orders_per_second / each.control_per_second:.2f}",
            f"{each.peak_megabytes:.0f}",
            f"{each.peak_megabytes / empty.peak_megabytes:.2f}",
        ]
        for each in found.states
    ]
    return [head, *rows]


def steady_rows(found: Growth) -> list[list[str]]:
    idle = found.idle
    return [
        ["", "found"],
        ["statements per second, idle", f"{idle['statements_per_second']:.2f}"],
        ["round trips per second, idle", f"{idle['round_trips_per_second']:.2f}"],
        ["CPU of one core, idle", f"{idle['cpu_percent']:.2f} %"],
        ["seconds from start to consuming", spread(found.start_seconds, "{:.2f}")],
    ]


def memory_rows(found: Memory) -> list[list[str]]:
    rows = [["orders", "resident MiB"]]
    return rows + [[f"{n:,}", f"{mib:.1f}"] for n, mib in _some(found.steps)]


def plan_rows(found: Growth) -> list[list[str]]:
    return [
        ["outbox", "statement", "plan"],
        *(
            [each.state, name, "; ".join(lines)]
            for each in found.states
            for name, lines in each.plans.items()
        ),
    ]


def _some(steps: Sequence[tuple[int, float]], most: int = 10) -> list[tuple[int, float]]:
    """Not more than so many of the steps, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(n * (len(steps) - 1) / (most - 1))] for n in range(most)]


def spread(values: Numbers, shape: str) -> str:
    """`823 [790-840]`: the median, and the lowest and highest of several."""
    if not values:
        return ""
    text = shape.format(statistics.median(values))
    if len(values) == 1:
        return text
    return f"{text} [{shape.format(min(values))}-{shape.format(max(values))}]"


def _ratio(run: Run, name: str, other: str, column: str) -> str:
    if other not in run.contestants:
        return ""
    return f"{run.median(name, column) / run.median(other, column):.2f}"


# Where it all goes.


def show(run: Run, console: Console) -> None:
    if not console.is_terminal:
        console.width = FILE_WIDTH
    machine = ", ".join(f"{name} {value}" for name, value in run.machine.items())
    console.print(machine, highlight=False, style="dim")
    for title, rows in _sections(run).items():
        table = Table(*rows[0], title=title.capitalize(), title_justify="left")
        for row in rows[1:]:
            table.add_row(*row)
        console.print(table)


def save(run: Run) -> Path:
    """Write JSON and plots to run/bench; returns the JSON's path."""
    RUNS.mkdir(parents=True, exist_ok=True)
    path = RUNS / f"{run.kind}-{run.made.replace(':', '').replace('+0000', 'Z')}.json"
    path.write_text(
        json.dumps({**asdict(run), "targets": [asdict(t) for t in targets(run)]}, indent=1) + "\n"
    )
    for name, svg in _plots(run).items():
        (RUNS / name).write_text(svg)
    return path


def keep(run: Run, path: Path) -> None:
    """Make this run the one that docs/performance.md tells of."""
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, EVIDENCE / f"performance-{run.kind}.json")
    for name, svg in _plots(run).items():
        (DOCS / name).write_text(svg)
    page = PAGE.read_text()
    for title, rows in _sections(run).items():
        page = _filled(page, title, _markdown(rows))
    page = _filled(
        page,
        f"{run.kind} run",
        _markdown([["", ""], *([k, v] for k, v in _conditions(run).items())]),
    )
    PAGE.write_text(page)


def _conditions(run: Run) -> dict[str, str]:
    options = ", ".join(f"{name} {value}" for name, value in run.options.items())
    return {"made": run.made, "options": options, **run.machine}


def _sections(run: Run) -> dict[str, list[list[str]]]:
    sections: dict[str, list[list[str]]] = {}
    if run.throughput:
        sections |= {"throughput": throughput_rows(run)}
    if run.latency:
        sections |= {"latency": latency_rows(run)}
    if targets(run):
        sections |= {"targets": target_rows(run)}
    if run.growth:
        sections |= {
            "growth": growth_rows(run.growth),
            "steady": steady_rows(run.growth),
            "plans": plan_rows(run.growth),
        }
    if run.memory:
        sections |= {"memory": memory_rows(run.memory)}
    return sections


def _filled(page: str, name: str, content: str) -> str:
    """The page with what stands between the two marks of that name replaced."""
    marks = re.compile(rf"(<!-- numbers: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not marks.search(page):
        raise LookupError(f"{PAGE.name} has no place for {name!r}")
    return marks.sub(lambda found: found[1] + content + found[2], page)


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]]) + "\n"


def _plots(run: Run) -> dict[str, str]:
    found = {}
    if run.throughput:

        def of(column: str) -> list[Bar]:
            values: Callable[[str], list[float]] = lambda name: run.column(name, column)  # noqa: E731
            return [
                Bar(
                    TITLES[n],
                    statistics.median(values(n)),
                    min(values(n)),
                    max(values(n)),
                    n.startswith("service"),
                )
                for n in run.contestants
            ]

        found["performance-throughput.svg"] = bars(
            "Orders per second", "orders per second", of("orders_per_second")
        )
        found["performance-cpu.svg"] = bars(
            "Client CPU per order", "microseconds per order", of("cpu_microseconds")
        )
    if run.latency:
        rows = [
            Points(
                f"{name} at {load:.0%}",
                tuple(statistics.median(run.delays(name, load, p)) for p in ("p50", "p95", "p99")),
            )
            for name in run.timed
            for load in LOADS
        ]
        found["performance-latency.svg"] = points(
            "OrderCreated to OrderProcessed", ("p50", "p95", "p99"), rows
        )
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _node() -> str:
    if shutil.which("node") is None:
        return "not installed"
    return subprocess.run(
        ["node", "--version"], capture_output=True, text=True, check=True
    ).stdout.strip()
