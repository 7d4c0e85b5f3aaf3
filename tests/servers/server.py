"""What the private database and the private broker have in common: a life, and one folder."""

import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, NoReturn, Self

from .errors import NotOurs, ServerFailed
from .place import Place
from .process import Process, wait_until

USER = "orders"
PASSWORD = "orders-test-password"
HOST = "127.0.0.1"
START_SECONDS = 240.0
LOG_LINES = 25


class PrivateServer(ABC):
    """A server that only the tests know, on a loopback port that stays the same.

    `stop` and `kill` keep the data and `start` finds them again; `close`, or the end of the with
    block, ends the server and removes them.
    """

    title: ClassVar[str]
    private: ClassVar[bool] = True

    def __init__(self, place: Place, port: int) -> None:
        self.host = HOST
        self.port = port
        self._place = place
        self._folder: Path | None = None
        self._process: Process | None = None
        self._version: str | None = None

    # Each server's own part.

    @abstractmethod
    def _prepare(self) -> None:
        """Fill the new folder: configuration, empty data."""

    @abstractmethod
    def _launch(self) -> Process: ...

    @abstractmethod
    def _ask_version(self) -> str | None:
        """The version, once the server answers."""

    # Life.

    @property
    def running(self) -> bool:
        """Whether there is a process; a frozen one counts."""
        return self._process is not None and self._process.alive

    @property
    def version(self) -> str:
        if self._version is None:
            raise ServerFailed(f"{self.title} has not been started")
        return self._version

    @property
    def pid(self) -> int:
        return self._own_process.pid

    def start(self) -> None:
        if self.running:
            return
        if self._folder is None:
            self._folder = self._place.new_folder("orders-test-")
            self._prepare()
        self._process = self._launch()
        try:
            wait_until(self._answers, START_SECONDS, f"{self.title} on port {self.port}")
        except TimeoutError as error:
            raise ServerFailed(f"{error}\n{self.log_tail()}") from error

    def stop(self) -> None:
        """The orderly end."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """The end without warning (SIGKILL)."""
        self._own_process.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Connections stay open and nothing answers (SIGSTOP)."""
        self._own_process.freeze()

    def thaw(self) -> None:
        self._own_process.thaw()

    def revive(self) -> None:
        """Whatever was done to it, it runs again."""
        if self.running:
            self.thaw()
        else:
            self.start()

    def close(self) -> None:
        """End it and remove its data."""
        if self._process is not None:
            self._process.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder)
            self._folder = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Its folder.

    @property
    def folder(self) -> Path:
        if self._folder is None:
            raise ServerFailed(f"{self.title} has not been started")
        return self._folder

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-LOG_LINES:])

    def _inside(self, name: str) -> str:
        """A path in the folder as the server sees it."""
        return self._place.inside(self.folder / name)

    @property
    def _own_process(self) -> Process:
        if self._process is None:
            raise ServerFailed(f"{self.title} has not been started")
        return self._process

    def _answers(self) -> bool:
        if not self.running:
            raise ServerFailed(f"{self.title} ended while starting:\n{self.log_tail()}")
        self._version = self._ask_version()
        return self._version is not None


class GivenServer:
    """A server that is lent to the tests: used, never started, ended or frozen."""

    title: ClassVar[str]
    variable: ClassVar[str]
    private: ClassVar[bool] = False

    def __init__(self, url: str, host: str, port: int, version: str) -> None:
        self.given_url = url
        self.host = host
        self.port = port
        self.version = version

    def revive(self) -> None:
        """Nothing was done to it."""

    def close(self) -> None:
        """It stays as it is."""

    def start(self) -> None:
        self._refuse("start")

    def stop(self) -> None:
        self._refuse("stop")

    def kill(self) -> None:
        self._refuse("kill")

    def restart(self) -> None:
        self._refuse("restart")

    def freeze(self) -> None:
        self._refuse("freeze")

    def thaw(self) -> None:
        self._refuse("thaw")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _refuse(self, action: str) -> NoReturn:
        raise NotOurs(
            f"cannot {action} the {self.title} that {self.variable} names: it belongs to someone"
            f" else. Unset {self.variable} and the tests start one of their own."
        )
