"""What a campaign found: cycle by cycle, and summed up."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.registry import Measurement
from tests.faults.verdict import Sums, Verdict


@dataclass
class Cycle:
    """What happened in one."""

    number: int
    fault: str
    measurements: list[Measurement] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    rest_seconds: float = 0.0
    seconds: float = 0.0
    orders: int = 0

    def __str__(self) -> str:
        """One line for whoever watches."""
        parts = [f"{each.what} {each.seconds:.1f} s" for each in self.measurements]
        parts += [f"{self.orders} inputs", f"rest {self.rest_seconds:.1f} s"]
        parts += [f"{self.seconds:.0f} s"]
        state = "; ".join(self.wrong) or "holds"
        return f"cycle {self.number} {self.fault}: {', '.join(parts)}: {state}"


@dataclass
class Report:
    seed: int
    commit: str
    versions: dict[str, str] = field(default_factory=dict)
    cycles: list[Cycle] = field(default_factory=list)
    sums: Sums = field(default_factory=Sums)
    """Of all stages together."""
    verdict: Verdict | None = None
    """The last one."""
    evidence: Path | None = None

    @property
    def wrong(self) -> list[str]:
        return [
            f"cycle {each.number}, {each.fault}: {what}"
            for each in self.cycles
            for what in each.wrong
        ]

    def as_json(self) -> dict[str, Any]:
        counts = Counter(each.fault for each in self.cycles)
        taken = defaultdict[str, list[float]](list)
        for each in self.cycles:
            for measurement in filter(lambda measured: measured.came, each.measurements):
                taken[measurement.what].append(measurement.seconds)
        return {
            "seed": self.seed,
            "commit": self.commit,
            "versions": self.versions,
            "cycles": len(self.cycles),
            "faults": dict(sorted(counts.items())),
            "seconds": {what: _spread(seconds) for what, seconds in sorted(taken.items())},
            "sums": asdict(self.sums),
            "wrong": self.wrong,
            "verdict": self.verdict.as_json() if self.verdict else None,
        }


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "count": len(seconds),
        "min": round(min(seconds), 2),
        "median": round(statistics.median(seconds), 2),
        "max": round(max(seconds), 2),
    }
