"""Servers that may be broken; without them the tests are skipped or fail, as all others."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.faults.setting import Servers
from tests.servers import AnyDatabase, AnyRabbit


@pytest.fixture
def servers_to_break(database_server: AnyDatabase, rabbit_server: AnyRabbit) -> Servers:
    """The run's own; a stage on them leaves them running."""
    if not (database_server.private and rabbit_server.private):
        pytest.skip("the servers are not ours to break")
    return Servers(database_server, rabbit_server)


@pytest.fixture(autouse=True)
def _no_word_of_links_that_were_broken_on_purpose(caplog: pytest.LogCaptureFixture) -> None:
    for noisy in ("aiormq", "aio_pika"):
        caplog.set_level(logging.CRITICAL, logger=noisy)


def pytest_collection_modifyitems(items: list[Any]) -> None:
    for item in items:
        if "faults" in item.path.parts:
            # aio_pika's finalizer of a connection that broke, in a thread that has no loop.
            item.add_marker(
                pytest.mark.filterwarnings(
                    "ignore:coroutine 'Connection.close' was never awaited:RuntimeWarning"
                )
            )
