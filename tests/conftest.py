"""What every test gets: no settings from the developer's environment, and a steady Hypothesis."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from service.settings import Settings

pytest_plugins = ["tests.servers.conftest_fixtures"]

settings.register_profile("steady", derandomize=True, deadline=None, max_examples=100)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        for variable in (name, name.upper()):
            if variable in os.environ:
                monkeypatch.delenv(variable)
