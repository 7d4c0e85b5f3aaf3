"""The service processes of a stage: started as users do, killed, frozen and ended by number."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.setting import (
    USUAL_ENVIRONMENT,
    Address,
    Addresses,
    Servers,
    StageOptions,
    Urls,
)
from tests.patience import PATIENCE_SECONDS
from tests.processes import ROOT, ServiceProcess

# uvicorn ends with the signal that ended it, once everything is drained.
ENDED_BY_SIGTERM = (0, -signal.SIGTERM, 128 + signal.SIGTERM)
POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Ending:
    """How a process ended that was told to."""

    seconds: float
    status: int

    @property
    def orderly(self) -> bool:
        return self.status in ENDED_BY_SIGTERM


class Services:
    """Processes 0 to `count` - 1, each either running or ended; a frozen one counts as running."""

    def __init__(
        self,
        count: int,
        environment: Mapping[str, str],
        arguments: tuple[str, ...],
        *,
        folder: Path,
        logs: Path,
    ) -> None:
        self.count = count
        self.environment = dict(environment)
        self._arguments = arguments
        self._folder = folder
        self._logs = logs
        self._running: dict[int, ServiceProcess] = {}
        self._starts = 0

    @property
    def running(self) -> list[int]:
        return sorted(self._running)

    def __getitem__(self, number: int) -> ServiceProcess:
        return self._running[number]

    async def start(self, *numbers: int, ready: bool = True) -> None:
        """Start these, or all; with `ready`, returns once each consumes."""
        chosen = numbers or range(self.count)
        for number in chosen:
            self._running[number] = await asyncio.to_thread(
                ServiceProcess, self.environment, *self._arguments, folder=self._folder
            )
        if ready:
            await self.wait_for_status("/health/ready", 200, *chosen)

    async def wait_for_status(
        self, path: str, status: int, *numbers: int, within: float = PATIENCE_SECONDS
    ) -> None:
        """Returns once each of these, or all, answers a probe with this status."""
        for number in numbers or self.running:
            await asyncio.to_thread(
                self._running[number].wait_for_status, path, status, within=within
            )

    async def kill(self, *numbers: int) -> None:
        """SIGKILL these, or all."""
        for number in numbers or self.running:
            await asyncio.to_thread(self._running[number].kill)
            await self._gone(number)

    async def terminate(self, *numbers: int, within: float = PATIENCE_SECONDS) -> list[Ending]:
        """SIGTERM these, or all, at once; returns how each ended.

        Raises:
            AssertionError: one did not end in time.
        """
        chosen = numbers or tuple(self.running)
        started = time.monotonic()
        for number in chosen:
            self._running[number].terminate()

        async def end_of(number: int) -> Ending:
            status = await asyncio.to_thread(self._running[number].wait, within)
            return Ending(time.monotonic() - started, status)

        endings = await asyncio.gather(*(end_of(number) for number in chosen))
        for number in chosen:
            await self._gone(number)
        return endings

    async def restart(self, *numbers: int, ready: bool = True) -> None:
        """SIGKILL these, or all, and start them again."""
        chosen = numbers or tuple(self.running)
        await self.kill(*chosen)
        await self.start(*chosen, ready=ready)

    def freeze(self, number: int) -> None:
        """SIGSTOP: its links stay open and it does nothing."""
        self._signal(number, signal.SIGSTOP)

    def thaw(self, number: int) -> None:
        self._signal(number, signal.SIGCONT)

    async def close(self) -> None:
        """Kill what is left; all logs are in the folder then."""
        await self.kill()

    def _signal(self, number: int, which: signal.Signals) -> None:
        # It leads a process group of its own, and is not reaped before it is closed.
        os.killpg(self._running[number]._popen.pid, which)

    async def _gone(self, number: int) -> None:
        process = self._running.pop(number)
        await asyncio.to_thread(process.close)
        self._starts += 1
        log = self._logs / f"service-{number}-run-{self._starts}.log"
        log.write_text("\n".join(process.lines) + "\n")


@asynccontextmanager
async def run_services(
    folder: Path, options: StageOptions, servers: Servers, urls: Urls
) -> AsyncIterator[Services]:
    """The processes of a stage, each consuming, on a migrated database."""
    real = Addresses(
        Address(servers.database.host, servers.database.port),
        Address(servers.broker.host, servers.broker.port),
    )
    async with options.links(real) as seen:
        environment = {
            **USUAL_ENVIRONMENT,
            "DATABASE_URL": _moved(urls.database, real.database, seen.database),
            "MQ_URL": _moved(urls.broker, real.broker, seen.broker),
            **options.environment,
        }
        direct = environment | {"DATABASE_URL": urls.database}
        await asyncio.to_thread(migrate, direct, options.folder)
        services = Services(
            options.processes, environment, options.arguments, folder=options.folder, logs=folder
        )
        try:
            await services.start()
            yield services
        finally:
            await services.close()


def migrate(environment: Mapping[str, str], folder: Path = ROOT) -> None:
    """`orders migrate`, of the code in this folder."""
    subprocess.run(
        [sys.executable, "-c", "from service.cli import cli; cli()", "migrate"],
        cwd=folder,
        env={"PATH": os.defpath, **environment},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def _moved(url: str, real: Address, seen: Address) -> str:
    return url.replace(f"{real.host}:{real.port}", f"{seen.host}:{seen.port}", 1)
