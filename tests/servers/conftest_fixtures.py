"""Fixtures over the real servers; tests/conftest.py names this module in pytest_plugins.

Without servers the tests are skipped and the end of the run says so, or they fail when
REQUIRE_SERVERS=1 (set it where servers are expected, such as CI).
"""

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from . import AnyDatabase, AnyRabbit, ServersUnavailable, find_database, find_rabbitmq
from .errors import NO_SERVER

Found = TypeVar("Found")

# What the tests did without, in full: a skip's own reason is one line.
MISSING = pytest.StashKey[set[str]]()


@pytest.fixture(scope="session")
def database_server(pytestconfig: pytest.Config) -> Iterator[AnyDatabase]:
    """One server for the whole run; `database_url` is what most tests want."""
    with _or_do_without(find_database, pytestconfig) as server:
        yield server


@pytest.fixture(scope="session")
def rabbit_server(pytestconfig: pytest.Config) -> Iterator[AnyRabbit]:
    """One broker for the whole run; `mq_url` is what most tests want."""
    with _or_do_without(find_rabbitmq, pytestconfig) as server:
        yield server


@pytest.fixture
def database_url(database_server: AnyDatabase) -> Iterator[str]:
    """An empty database, on a server that runs again however the test leaves it."""
    name = f"orders_test_{secrets.token_hex(4)}"
    database_server.revive()
    url = database_server.create_database(name)
    yield url
    database_server.revive()
    database_server.drop_database(name)


@pytest.fixture
def mq_url(rabbit_server: AnyRabbit) -> Iterator[str]:
    """An empty vhost, on a broker that runs again however the test leaves it."""
    name = f"orders-test-{secrets.token_hex(4)}"
    rabbit_server.revive()
    url = rabbit_server.create_vhost(name)
    yield url
    rabbit_server.revive()
    rabbit_server.delete_vhost(name)


def _or_do_without(find: Callable[[], Found], config: pytest.Config) -> Found:
    try:
        return find()
    except ServersUnavailable as error:
        missing = error
    if os.environ.get("REQUIRE_SERVERS") == "1":
        pytest.fail(str(missing), pytrace=False)
    config.stash[MISSING].add(str(missing))
    pytest.skip(missing.missing)


def pytest_configure(config: pytest.Config) -> None:
    """A run that is told to end (SIGTERM) ends as by Ctrl-C: its servers end with it."""
    config.stash[MISSING] = set()
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of a parallel run tells its controller what it did without."""
    told: dict[str, list[str]] | None = getattr(session.config, "workeroutput", None)
    if told is not None:
        missing = session.config.stash[MISSING]
        told["missing"] = sorted(missing)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[MISSING].update(getattr(node, "workeroutput", {}).get("missing", ()))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(NO_SERVER in str(report.longrepr) for report in skipped)
    if not count:
        return
    terminalreporter.section("tests that need real servers", yellow=True, bold=True)
    terminalreporter.line(f"{count} {'test' if count == 1 else 'tests'} DID NOT RUN.")
    missing = config.stash[MISSING]
    for each in sorted(missing):
        terminalreporter.line(each)
    terminalreporter.line("With REQUIRE_SERVERS=1 they fail instead.")
