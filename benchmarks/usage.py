"""What a process tree has used, as Linux counts it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
# Fields of /proc/PID/stat behind the command's name, counted from the state.
PARENT, USER, SYSTEM, REAPED_USER, REAPED_SYSTEM = 1, 11, 12, 13, 14


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over a process tree."""

    cpu_seconds: float
    peak_bytes: int
    resident_bytes: int


def usage_of(roots: Iterable[int]) -> Usage:
    """What these processes and their descendants have used since they were started."""
    cpu = 0.0
    peak = resident = 0
    for pid in tree_of(roots):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = _stat(pid)
            ticks = sum(int(fields[i]) for i in (USER, SYSTEM, REAPED_USER, REAPED_SYSTEM))
            cpu += ticks / TICKS
            status = dict(_status(pid))
            peak += status.get("VmHWM", 0)
            resident += status.get("VmRSS", 0)
    return Usage(cpu, peak, resident)


def tree_of(roots: Iterable[int]) -> list[int]:
    """These processes and all their descendants that are alive."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                children.setdefault(int(_stat(int(entry.name))[PARENT]), []).append(int(entry.name))
    found: list[int] = []
    ahead = list(roots)
    while ahead:
        pid = ahead.pop()
        found.append(pid)
        ahead += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    # The command's name stands in parentheses and may hold anything, parentheses too.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _status(pid: int) -> Iterator[tuple[str, int]]:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            yield name, int(value.removesuffix(" kB")) * 1024
