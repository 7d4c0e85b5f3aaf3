"""One process of ours, in a session of its own: ended, frozen and thawed by its own id."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import SystemRandom

from .place import clean_environment

STOP_SECONDS = 120.0
# Below the range from which systems pick the ports of outgoing connections: nobody takes the port
# of a server that is down for a moment. No well-known service lives here either.
PORTS = range(28100, 32700)
_holders: dict[int, socket.socket] = {}


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
    """Different loopback ports on which nothing listens, and which no other run of tests gets.

    Until they are given back, or this process ends, whether their server is up or down.
    """
    ports: list[int] = []
    for port in SystemRandom().sample(PORTS, k=len(PORTS)):
        holder = socket.socket()
        try:
            holder.bind(("127.0.0.1", port))
        except OSError:
            holder.close()
            continue
        # Servers set this too, and so they may bind beside a holder, which does not listen.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _holders[port] = holder
        ports.append(port)
        if len(ports) == count:
            return ports
    give_back(*ports)
    raise OSError(f"not {count} free ports in {PORTS}")


def give_back(*ports: int) -> None:
    """Others may have these ports."""
    for port in ports:
        _holders.pop(port).close()
