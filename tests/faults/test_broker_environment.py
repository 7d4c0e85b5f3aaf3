"""What an operator takes away at the broker: each once, under load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults.once import each_once
from tests.faults.setting import Servers

pytestmark = pytest.mark.servers

BROKER = (
    *("memory-alarm", "disk-alarm", "close-connections", "revoke-permissions"),
    *("revoke-publishing", "delete-incoming-queue", "delete-exchange", "unbind-everybody"),
)
OUTPUTS = ("delete-processed-queue", "unbind-processed-queue")


@pytest.mark.parametrize("names", [BROKER, OUTPUTS], ids=["broker", "outputs"])
async def test_what_an_operator_takes_away_at_the_broker_costs_no_message(
    names: Sequence[str], servers_to_break: Servers, tmp_path: Path
) -> None:
    await each_once(names, servers_to_break, tmp_path)
