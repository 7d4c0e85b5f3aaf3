"""What half succeeds, and what comes back: each of these faults once, under load."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.once import each_once
from tests.faults.setting import Servers

pytestmark = pytest.mark.servers

NAMES = ("refuse-commits", "lose-answers-to-commits", "narrow-uplink", "events-come-back")


async def test_what_half_succeeds_or_comes_back_costs_no_message(
    servers_to_break: Servers, tmp_path: Path
) -> None:
    await each_once(NAMES, servers_to_break, tmp_path)
