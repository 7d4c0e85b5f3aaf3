"""The contract's page, drawn by a real browser from a really running service."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE_SECONDS
from tests.servers.process import free_ports, give_back

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Drawing alone takes half a minute of a processor that others use too.
DRAW_SECONDS = 300


@pytest.fixture(scope="module")
def browser() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        why = f"no browser: install one of {', '.join(BROWSERS)}"
        if os.environ.get("REQUIRE_SERVERS") == "1":
            pytest.fail(why)
        pytest.skip(why)
    return found


@pytest.fixture(scope="module")
def address(browser: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a service on its embedded default answers."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "faststream", "run", "service.app:app"]
    with subprocess.Popen(
        [*command, "--host", "127.0.0.1", "--port", str(port), "--app-dir", str(ROOT)],
        cwd=tmp_path_factory.mktemp("service"),
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        give_up = threading.Timer(PATIENCE_SECONDS, process.kill)
        give_up.start()
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if "Uvicorn running" in line:
                    break
            else:
                pytest.fail("the service did not start:\n" + "".join(said))
            give_up.cancel()
            yield f"http://127.0.0.1:{port}"
        finally:
            give_up.cancel()
            process.terminate()
            give_back(port)


@pytest.fixture(scope="module")
def drawn(browser: str, address: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What stands on the page once it is drawn, and what the browser's console says."""
    profile = tmp_path_factory.mktemp("browser")
    quiet = (
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        # Nothing but the service can be reached, whatever the machine is connected to.
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        *("--enable-logging=stderr", "--virtual-time-budget=20000", f"--user-data-dir={profile}"),
    )
    done = subprocess.run(
        [browser, *quiet, "--dump-dom", f"{address}/docs/asyncapi"],
        check=True,
        capture_output=True,
        text=True,
        timeout=DRAW_SECONDS,
    )
    return done.stdout, "\n".join(re.findall(r".*CONSOLE.*", done.stderr))


@pytest.mark.parametrize("name", ["OrderCreated", "OrderProcessed", "OrderFailed", "DeadLetter"])
def test_every_message_is_drawn_with_no_internet(drawn: tuple[str, str], name: str) -> None:
    page, _ = drawn
    assert 'class="aui-root"' in page
    assert f">{name}<" in page


def test_payloads_stand_open_with_their_fields(drawn: tuple[str, str]) -> None:
    page, _ = drawn
    for field in ("totalAmount", "idempotencyKey", "processingTimestamp", "errorDetails"):
        assert re.search(rf"<span[^>]*>{field}</span>", page), field


def test_the_browser_has_nothing_to_complain_of(drawn: tuple[str, str]) -> None:
    _, console = drawn
    assert console == ""
