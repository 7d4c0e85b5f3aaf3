"""What every test gets: no settings from the developer's environment, and a steady Hypothesis."""

from __future__ import annotations

import os
import signal

import pytest
from hypothesis import HealthCheck, settings

from service.config.settings import Settings

pytest_plugins = ["tests.servers.conftest_fixtures"]

# Every Settings reads the certificates that it would trust. No test trusts a public authority, and
# reading the system's takes a tenth of a second each time.
os.environ["SSL_CERT_FILE"] = os.devnull

# A background job of a shell ignores Ctrl-C, and so does all that it starts. Tests that interrupt a
# process of ours would wait for it in vain.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "steady",
    derandomize=True,
    deadline=None,
    max_examples=100,
    # How fast examples are made is the machine's affair.
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")


@pytest.fixture(autouse=True)
def _nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        for variable in (name, name.upper()):
            if variable in os.environ:
                monkeypatch.delenv(variable)
