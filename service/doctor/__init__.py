"""`orders check`: connect to everything configured and say what is right and what is wrong.

Nothing is created or changed, and every question has a deadline: a server that hangs is a finding.
"""

from __future__ import annotations

import asyncio

from service.config.settings import Settings
from service.doctor.broker import check_broker
from service.doctor.database import check_server
from service.doctor.embedded import check_file
from service.doctor.environment import check_settings
from service.doctor.findings import Finding, Level
from service.doctor.report import render

__all__ = ["Finding", "Level", "check_all", "exit_code", "render"]


async def check_all(settings: Settings) -> list[Finding]:
    """Look at the settings, the database and the broker, both servers at the same time."""
    sqlite = settings.database.get_backend_name() == "sqlite"
    database, broker = await asyncio.gather(
        check_file(settings) if sqlite else check_server(settings), check_broker(settings)
    )
    return [*check_settings(settings), *database, *broker]


def exit_code(findings: list[Finding]) -> int:
    """1 where anything is wrong. What is unknown or a warning does not stop a deployment."""
    return int(any(finding.level is Level.WRONG for finding in findings))
