"""What surrounds the service goes wrong in every way the campaign knows: each once, under load."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.campaign import Campaign, Plan
from tests.faults.clock_faults import libfaketime
from tests.faults.disk_faults import MAY_MOUNT
from tests.faults.registry import all_faults
from tests.faults.setting import Servers
from tests.servers import ServersUnavailable

pytestmark = pytest.mark.servers

SEED, RATE = 5, 60.0
BROKER = (
    *("memory-alarm", "disk-alarm", "close-connections", "revoke-permissions"),
    *("revoke-publishing", "delete-incoming-queue", "delete-exchange", "unbind-everybody"),
)
OUTPUTS = ("delete-processed-queue", "unbind-processed-queue")
DATABASE = ("read-only-database", "no-connection-left", "kill-sessions")
TABLES = ("lock-tables", "lock-ranges", "deadlocks", "migrate-under-load")
CLOCKS = ("clocks-apart", "clocks-jump")
DISK = ("out-of-disk-restarted",)


async def each_once(names: Sequence[str], servers: Servers, folder: Path) -> None:
    """Inject each under load, wait for rest and judge."""
    faults = tuple(all_faults()[name] for name in names)
    plan = Plan(SEED, len(faults), orders=0, rate=RATE, faults=faults)
    report = await Campaign(plan, folder, servers=servers).run()
    assert report.wrong == []
    assert {each.fault for each in report.cycles} == set(names)
    assert report.sums.acknowledged > 0


@pytest.mark.parametrize("names", [BROKER, OUTPUTS], ids=["broker", "outputs"])
async def test_what_an_operator_takes_away_at_the_broker_costs_no_message(
    names: Sequence[str], servers_to_break: Servers, tmp_path: Path
) -> None:
    await each_once(names, servers_to_break, tmp_path)


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
