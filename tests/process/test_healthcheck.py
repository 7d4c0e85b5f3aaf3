"""The image's health check: what it says, and when it ends the container."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

FILE = Path(__file__).parents[2] / "deploy/healthcheck.py"

Kills = list[tuple[int, int]]


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("healthcheck", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "REDS", tmp_path / "reds")
    return module


@pytest.fixture
def run(check: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], tuple[int, Kills]]:
    """One check in a container of our own: its exit status, and the signals it sent."""
    monkeypatch.setattr(check, "in_a_container_of_our_own", lambda: True)

    def run(port: int) -> tuple[int, Kills]:
        kills: Kills = []
        end = check.end
        with monkeypatch.context() as patch:
            patch.setattr(check, "end", lambda reds: end(reds, lambda *to: kills.append(to)))
            return check.main(port), kills

    return run


@contextmanager
def serving(**statuses: int) -> Iterator[int]:
    """A service that answers /health/NAME with a status; the port it listens on."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(statuses[self.path.removeprefix("/health/")])
            self.end_headers()

        def log_message(self, *_words: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_ready_is_healthy_and_an_outage_is_waited_out(
    run: Callable[[int], tuple[int, Kills]],
) -> None:
    with serving(live=200, ready=200) as port:
        assert run(port) == (0, [])
    with serving(live=200, ready=503) as port:
        assert [run(port) for _ in range(30)] == [(1, [])] * 30


def test_what_is_not_live_three_times_in_a_row_is_asked_to_end_and_then_killed(
    run: Callable[[int], tuple[int, Kills]],
) -> None:
    with serving(live=200, ready=200) as port:
        run(port)
    with serving(live=503, ready=503) as port:
        sent = [run(port)[1] for _ in range(4)]
    with serving(live=200, ready=200) as port:
        assert run(port) == (0, [])

    assert sent == [[], [], [(1, signal.SIGTERM)], [(-1, signal.SIGKILL)]]


def test_what_never_was_live_has_its_start_allowance_first(
    check: Any, run: Callable[[int], tuple[int, Kills]]
) -> None:
    with serving(live=200, ready=200) as port:
        closed = port
    sent = [run(closed) for _ in range(check.START_ALLOWANCE + check.LIMIT)]

    assert {status for status, _ in sent} == {1}
    assert [bool(kills) for _, kills in sent] == [False] * (len(sent) - 1) + [True]


def test_outside_of_a_container_nothing_is_ended(check: Any, tmp_path: Path) -> None:
    check.REDS.write_text("100")
    with serving(live=503, ready=503) as port:
        assert check.main(port) == 1
    assert check.in_a_container_of_our_own(tmp_path) is (os.getuid() != 0)
