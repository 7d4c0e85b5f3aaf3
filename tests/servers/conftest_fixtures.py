"""Fixtures over the real servers; tests/conftest.py names this module in pytest_plugins.

Without servers the tests are skipped and the end of the run says so, or they fail when
REQUIRE_SERVERS=1 (set it where servers are expected, such as CI).
"""

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

import pytest

from . import AnyDatabase, AnyRabbit, ServersUnavailable, find_database, find_rabbitmq
from .errors import NO_SERVER

Found = TypeVar("Found")


@pytest.fixture(scope="session")
def database_server() -> Iterator[AnyDatabase]:
    """One server for the whole run; `database_url` is what most tests want."""
    with _or_do_without(find_database) as server:
        yield server


@pytest.fixture(scope="session")
def rabbit_server() -> Iterator[AnyRabbit]:
    """One broker for the whole run; `mq_url` is what most tests want."""
    with _or_do_without(find_rabbitmq) as server:
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


def _or_do_without(find: Callable[[], Found]) -> Found:
    try:
        return find()
    except ServersUnavailable as error:
        _do_without(str(error))


def _do_without(reason: str) -> NoReturn:
    if os.environ.get("REQUIRE_SERVERS") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


def pytest_configure() -> None:
    """A run that is told to end (SIGTERM) ends as by Ctrl-C: its servers end with it."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = [
        reason
        for report in terminalreporter.stats.get("skipped", [])
        if NO_SERVER in (reason := _skip_reason(report))
    ]
    if not reasons:
        return
    terminalreporter.section("tests that need real servers", yellow=True, bold=True)
    tests = "1 test" if len(reasons) == 1 else f"{len(reasons)} tests"
    terminalreporter.line(f"{tests} DID NOT RUN:")
    for reason in dict.fromkeys(reasons):
        terminalreporter.line(reason)
    terminalreporter.line("REQUIRE_SERVERS=1 makes them fail instead.")


def _skip_reason(report: pytest.TestReport) -> str:
    """pytest keeps a skip as (path, line, reason)."""
    match report.longrepr:
        case (_, _, str(reason)):
            return reason.removeprefix("Skipped: ")
        case _:
            return ""
