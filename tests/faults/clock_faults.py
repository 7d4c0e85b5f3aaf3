"""Service processes whose clocks are wrong, each in its own way: the database's clock must do.

libfaketime gives a process the clock that a file tells. The monotonic clock stays as it is, as it
does when somebody sets the time of a machine.
"""

from __future__ import annotations

import asyncio
import random
import time
from datetime import datetime
from pathlib import Path

from tests.faults.faults import TAKEN_OVER_SECONDS
from tests.faults.registry import Measurement, fault
from tests.faults.stage import Stage
from tests.servers import ServersUnavailable

LIBRARIES = ("/usr/lib", "/usr/local/lib", "/usr/lib64")
SHARED_MEMORY = Path("/dev/shm")
HOUR_SECONDS = 3600
JUMPS = 6
LONGEST_STAY_SECONDS = 1.5


def libfaketime() -> Path:
    """Where the library is.

    Raises:
        ServersUnavailable: it is not installed.
    """
    for folder in LIBRARIES:
        for found in sorted(Path(folder).glob("**/faketime/libfaketime.so.1")):
            return found
    raise ServersUnavailable("no libfaketime", "install it: apt-get install faketime")


class Clock:
    """The clock of one service process: ahead of the machine's by so many seconds, or behind it."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    def set(self, ahead: float) -> None:
        """From now on; a process that looks meanwhile sees the one or the other."""
        draft = self._file.with_name(self._file.name + ".new")
        draft.write_text(f"{ahead:+.3f}")
        draft.replace(self._file)

    @property
    def environment(self) -> dict[str, str]:
        """Of a process that shall go by it."""
        return {
            "LD_PRELOAD": str(libfaketime()),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }


@fault("clocks-apart")
async def clocks_apart(stage: Stage, rng: random.Random) -> list[Measurement]:
    """One process is an hour ahead, one an hour back; one of them dies with what it has leased."""
    clocks = await _give_clocks(stage, rng.sample((HOUR_SECONDS, -HOUR_SECONDS), 2))
    try:
        for number in clocks:
            assert abs(_ahead(stage, number)) > HOUR_SECONDS / 2, "its clock is right"
        measured = [await _next_order(stage, "next order by clocks an hour off")]
        await asyncio.sleep(rng.uniform(0, LONGEST_STAY_SECONDS))
        await stage.services.kill(rng.choice(sorted(clocks)))
        measured.append(
            await _next_order(stage, "next order after a service with a wrong clock died")
        )
    finally:
        await _take_clocks(stage)
    return measured


@fault("clocks-jump")
async def clocks_jump(stage: Stage, rng: random.Random) -> list[Measurement]:
    """They jump while the processes run, by an hour, to and fro, each for itself."""
    clocks = await _give_clocks(stage, [0, 0])
    try:
        for _ in range(JUMPS):
            clock = rng.choice(list(clocks.values()))
            clock.set(rng.choice((0, HOUR_SECONDS, -HOUR_SECONDS)))
            await asyncio.sleep(rng.uniform(0, LONGEST_STAY_SECONDS))
        measured = [await _next_order(stage, "next order after clocks jumped")]
    finally:
        await _take_clocks(stage)
    return measured


async def _give_clocks(stage: Stage, ahead: list[int]) -> dict[int, Clock]:
    """Start all processes again, each by a clock of its own."""
    usual = dict(stage.services.environment)
    clocks = {}
    for number in stage.services.running:
        clock = clocks[number] = Clock(stage.folder / f"clock-{number}")
        clock.set(ahead[number % len(ahead)])
        stage.services.environment |= clock.environment
        try:
            await stage.services.restart(number, ready=False)
        finally:
            stage.services.environment.clear()
            stage.services.environment.update(usual)
    await stage.services.wait_for_status("/health/ready", 200)
    return clocks


def _ahead(stage: Stage, number: int) -> float:
    """How far a process was ahead of this machine when it began to consume, by its log."""
    (said, *_) = stage.services[number].told("consuming")
    return datetime.fromisoformat(said["time"]).timestamp() - time.time()


async def _take_clocks(stage: Stage) -> None:
    """Start all processes again, by the machine's clock."""
    await stage.services.kill()
    _sweep()
    await stage.services.start()


def _sweep() -> None:
    """Remove what libfaketime has left of processes that were killed: names end with their ids."""
    for left in SHARED_MEMORY.glob("*faketime_*_*"):
        if not Path("/proc", left.name.rpartition("_")[2]).exists():
            left.unlink(missing_ok=True)


async def _next_order(stage: Stage, what: str) -> Measurement:
    return Measurement(what, await stage.first_order_after(time.time()), TAKEN_OVER_SECONDS)
