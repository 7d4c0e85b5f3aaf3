"""The service as users run it: `faststream run service.app:app` in a process of its own.

with service_process(settings) as service:
    service.wait_for_status("/health/ready", 200)
    service.terminate()
    assert service.wait() == 0
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from service.config.settings import Settings
from tests.patience import PATIENCE_SECONDS
from tests.servers import wait_until
from tests.servers.process import free_ports, give_back

ROOT = Path(__file__).parent.parent
HOST = "127.0.0.1"


class ServiceProcess:
    """A running service, its log as it comes, and its probes. The block's end kills what is left.

    A process that has workers or a reloader is the leader of all of them.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        *arguments: str,
        folder: Path = ROOT,
        started_by: Sequence[str] = (),
    ) -> None:
        (self.port,) = free_ports(1)
        self._lines: list[str] = []
        self._popen = subprocess.Popen(
            [
                *started_by,
                *(sys.executable, "-m", "faststream", "run", "service.app:app"),
                *("--host", HOST, "--port", str(self.port), *arguments),
            ],
            cwd=folder,
            env={"PATH": os.defpath, "PYTHONUNBUFFERED": "1", "LOG_FORMAT": "json", **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    # What it says.

    @property
    def lines(self) -> list[str]:
        return list(self._lines)

    def told(self, action: str) -> list[dict[str, Any]]:
        """Each line of the service's own log that has this action, as its fields."""
        found = []
        for line in self.lines:
            with contextlib.suppress(json.JSONDecodeError):
                fields = json.loads(line) if line.startswith("{") else {}
                if fields.get("logger") == "orders" and fields["message"] == action:
                    found.append(fields)
        return found

    def wait_until_told(
        self, action: str, *, times: int = 1, within: float = PATIENCE_SECONDS
    ) -> list[dict[str, Any]]:
        self._wait_until(lambda: len(self.told(action)) >= times, within, f"{action!r} in its log")
        return self.told(action)

    def wait_for_line(self, text: str, *, within: float = PATIENCE_SECONDS) -> None:
        self._wait_until(
            lambda: any(text in line for line in self.lines), within, f"{text!r} in its log"
        )

    def status(self, path: str) -> int | None:
        """The HTTP status of a path; None where nobody answers."""
        try:
            with urllib.request.urlopen(
                f"http://{HOST}:{self.port}{path}", timeout=PATIENCE_SECONDS
            ) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return None

    def wait_for_status(self, path: str, status: int, *, within: float = PATIENCE_SECONDS) -> None:
        self._wait_until(lambda: self.status(path) == status, within, f"{status} on {path}")

    def decided(self) -> int:
        """How many messages it has decided so far, whatever the outcome, by its metrics."""
        address = f"http://{HOST}:{self.port}/metrics"
        with urllib.request.urlopen(address, timeout=PATIENCE_SECONDS) as answer:
            lines = answer.read().decode().splitlines()
        counts = [line.split()[1] for line in lines if line.startswith("orders_messages_total{")]
        return round(sum(map(float, counts)))

    # Its memory.

    def limit_memory(self, size: int) -> None:
        """Refuse it more than `size` bytes of memory of its own from now on."""
        resource.prlimit(self._popen.pid, resource.RLIMIT_DATA, (size, size))

    def peak_memory(self) -> int:
        """The most that was resident of it so far, in bytes."""
        status = Path(f"/proc/{self._popen.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    # Its end.

    def terminate(self) -> None:
        """Ask it to end, as an orchestrator does: SIGTERM to the process that was started."""
        self._popen.terminate()

    def wait(self, within: float = PATIENCE_SECONDS) -> int:
        """Its exit status, negative for a signal; its log is complete then."""
        try:
            status = self._popen.wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(self._report(f"it did not end within {within:g} s")) from None
        self._reader.join(PATIENCE_SECONDS)
        return status

    def kill(self) -> None:
        """The end without warning (SIGKILL) of it and of what it has started."""
        # Not reaped yet, or the group would not be ours any more.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def close(self) -> None:
        self.kill()
        self._reader.join(PATIENCE_SECONDS)
        assert self._popen.stdout is not None
        self._popen.stdout.close()
        give_back(self.port)

    def _read(self) -> None:
        assert self._popen.stdout is not None
        for line in self._popen.stdout:
            self._lines.append(line.rstrip("\n"))

    def _wait_until(self, condition: Callable[[], bool], within: float, what: str) -> None:
        def met() -> bool:
            if condition():
                return True
            if (status := self._popen.poll()) is not None:
                raise AssertionError(self._report(f"it ended with {status}, without {what}"))
            return False

        try:
            wait_until(met, within, what)
        except TimeoutError as error:
            raise AssertionError(self._report(str(error))) from None

    def _report(self, what: str) -> str:
        return "\n".join([what, "the end of its log:", *self.lines[-30:]])


@contextmanager
def service_process(
    settings: Settings | Mapping[str, str],
    *arguments: str,
    folder: Path = ROOT,
    started_by: Sequence[str] = (),
) -> Iterator[ServiceProcess]:
    environment = environment_of(settings) if isinstance(settings, Settings) else settings
    service = ServiceProcess(environment, *arguments, folder=folder, started_by=started_by)
    try:
        yield service
    finally:
        service.close()


def environment_of(settings: Settings) -> dict[str, str]:
    """The environment that gives these settings: those that are not the default."""
    return {
        name.upper(): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        for name in settings.model_fields_set
        if (value := getattr(settings, name)) is not None
    }
