"""A migrated database and an empty vhost for each test, on real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from db.engine import Database
from service.config.settings import Settings
from service.database import migrate, open_database
from tests.harness import Wire, settings_for


@pytest.fixture
def settings(database_url: str, mq_url: str) -> Settings:
    return settings_for(database_url=database_url, mq_url=mq_url)


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    """The test's own way into the service's migrated database."""
    database = open_database(settings)
    await migrate(database)
    yield database
    await database.dispose()


@pytest.fixture
async def wire(mq_url: str) -> AsyncIterator[Wire]:
    async with Wire.connected(mq_url) as wire:
        yield wire


def pytest_collection_modifyitems(items: list[Any]) -> None:
    for item in items:
        if "integration" in item.path.parts:
            item.add_marker(pytest.mark.servers)
