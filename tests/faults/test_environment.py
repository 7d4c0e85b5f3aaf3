"""What the database, disks and clocks do to the service: each once, under load."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.clock_faults import libfaketime
from tests.faults.disk_faults import MAY_MOUNT
from tests.faults.once import each_once
from tests.faults.setting import Servers
from tests.servers import ServersUnavailable

pytestmark = pytest.mark.servers

DATABASE = ("read-only-database", "no-connection-left", "kill-sessions")
TABLES = ("lock-tables", "lock-ranges", "deadlocks", "migrate-under-load")
CLOCKS = ("clocks-apart", "clocks-jump")
DISK = ("out-of-disk-restarted",)


@pytest.mark.parametrize("names", [DATABASE, TABLES], ids=["server", "tables"])
async def test_a_database_that_refuses_or_holds_up_costs_no_message(
    names: Sequence[str], servers_to_break: Servers, tmp_path: Path
) -> None:
    await each_once(names, servers_to_break, tmp_path)


@pytest.mark.skipif(not MAY_MOUNT, reason="a disk of its own for the database needs root")
async def test_a_database_whose_disk_is_full_costs_no_message(
    servers_to_break: Servers, tmp_path: Path
) -> None:
    await each_once(DISK, servers_to_break, tmp_path)


async def test_clocks_that_are_wrong_cost_no_message(
    servers_to_break: Servers, tmp_path: Path
) -> None:
    try:
        libfaketime()
    except ServersUnavailable as error:
        if os.environ.get("REQUIRE_SERVERS") == "1":
            pytest.fail(str(error), pytrace=False)
        pytest.skip(error.missing)
    await each_once(CLOCKS, servers_to_break, tmp_path)
