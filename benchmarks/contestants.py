"""Who is measured, and how each is started and ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from benchmarks.stage import Wrong
from benchmarks.usage import Usage, usage_of
from tests.servers.process import free_ports

ROOT = Path(__file__).parent.parent
LOGS = ROOT / "run/bench/logs"
NODE = Path(__file__).parent / "peers/node"
FASTSTREAM = (sys.executable, "-m", "faststream", "run")
STOP_SECONDS = 30.0
LOG_LINES = 20


@dataclass(frozen=True)
class Contestant:
    """A program that turns OrderCreated into OrderProcessed."""

    name: str
    title: str
    app: str | None
    """What `faststream run` runs; None for Node."""
    processes: int = 1
    web: bool = False
    stores: bool = True
    timed: bool = True
    """Whether its latency is measured too."""

    @property
    def family(self) -> str:
        return self.name.partition("-")[0]

    def commands(self) -> list[list[str]]:
        if self.app is None:
            return [["node", str(NODE / "server.mjs")]] * self.processes
        command = [*FASTSTREAM, self.app]
        if self.web:
            (port,) = free_ports(1)
            command += ["--host", "127.0.0.1", "--port", str(port)]
        if self.processes > 1:
            command += ["--workers", str(self.processes)]
        return [command]


SERVICE, NAIVE, FLOOR = (
    "service.app:app",
    "benchmarks.peers.naive:app",
    "benchmarks.peers.floor:app",
)
CONTESTANTS = (
    Contestant("service", "this service", SERVICE, web=True),
    Contestant("service-2", "this service, two workers", SERVICE, 2, web=True),
    Contestant("naive", "naive: a transaction per message", NAIVE),
    Contestant("naive-2", "naive, two workers", NAIVE, 2, timed=False),
    Contestant("floor", "floor: FastStream alone, no database", FLOOR, stores=False),
    Contestant("node", "Node: amqplib and mysql2", None),
    Contestant("node-2", "Node, two processes", None, 2, timed=False),
)


class Running:
    """A contestant's processes, each the leader of a session of its own."""

    def __init__(self, contestant: Contestant, environment: Mapping[str, str]) -> None:
        LOGS.mkdir(parents=True, exist_ok=True)
        self.contestant = contestant
        self._log = LOGS / f"{contestant.name}.log"
        self.started = time.monotonic()
        with self._log.open("wb") as output:
            self._processes = [
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
                for command in contestant.commands()
            ]

    @property
    def pids(self) -> list[int]:
        return [process.pid for process in self._processes]

    def usage(self) -> Usage:
        return usage_of(self.pids)

    def check_alive(self) -> None:
        for process in self._processes:
            if process.poll() is not None:
                raise Wrong(f"{self.contestant.name} ended by itself:\n{self.log_tail()}")

    def log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    def stop(self) -> None:
        """The orderly end, within a deadline."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(deadline - time.monotonic(), 0.1))

    def kill(self) -> None:
        for process in self._processes:
            # Also what it started. Not reaped yet, or the group would not be ours any more.
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    @classmethod
    @contextmanager
    def of(cls, contestant: Contestant, environment: Mapping[str, str]) -> Iterator[Self]:
        running = cls(contestant, environment)
        try:
            yield running
        finally:
            running.stop()
            running.kill()


def prepare(contestants: tuple[Contestant, ...]) -> tuple[Contestant, ...]:
    """Install what the Node contestants need; without Node they are left out, and that is said."""
    if all(each.app for each in contestants):
        return contestants
    if shutil.which("node") is None or shutil.which("npm") is None:
        print("Node.js (node, npm) is not installed: measured without it.", file=sys.stderr)
        return tuple(each for each in contestants if each.app)
    if not (NODE / "node_modules").is_dir():
        npm = ["npm", "ci", "--silent", "--no-audit", "--no-fund"]
        subprocess.run(npm, cwd=NODE, check=True)
    return contestants
