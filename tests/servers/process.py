"""One process of ours, in a session of its own: ended, frozen and thawed by its own id."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import SystemRandom

from .place import clean_environment

STOP_SECONDS = 30.0
# Below the range from which systems pick the ports of outgoing connections: nobody takes the port
# of a server that is down for a moment. No well-known service lives here either.
PORTS = range(28100, 32700)


class Process:
    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                command,
                env=clean_environment(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._popen.pid

    @property
    def alive(self) -> bool:
        return self._popen.poll() is None

    def stop(self) -> None:
        """Ask it to end, and make it end when it does not."""
        self._signal(signal.SIGTERM)
        self.thaw()
        try:
            self._popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._popen.wait()

    def freeze(self) -> None:
        """Returns when the process stands still (or is dead)."""
        self._signal(signal.SIGSTOP)
        if self.alive:
            os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        # alive reaps: as long as it says yes, the id is still ours, and so is the group of that id.
        if self.alive:
            os.killpg(self.pid, number)


def wait_until(predicate: Callable[[], bool], seconds: float, waiting_for: str) -> None:
    deadline = time.monotonic() + seconds
    while not predicate():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{waiting_for}: not within {seconds:g} s")
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    """Different loopback ports on which nothing listens."""
    ports: list[int] = []
    with ExitStack() as held:
        for port in SystemRandom().sample(PORTS, k=len(PORTS)):
            candidate = held.enter_context(socket.socket())
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise OSError(f"not {count} free ports in {PORTS}")
