from __future__ import annotations

import subprocess
import sys

# As `faststream run` gets it. What a message leaves behind is a few hundred objects; so many
# messages as are in flight at a time must not start one search after the other.
PROBE = """
import gc
from service.app import app

searches = []
gc.callbacks.append(lambda phase, _: phase == "start" and searches.append(phase))
in_flight = [[] for _ in range(9_000)]
print(len(searches), gc.get_freeze_count() > 10_000)
"""


def test_a_process_that_handles_messages_seldom_searches_for_garbage_and_never_in_its_modules() -> (
    None
):
    said = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)

    assert said.stdout.split() == ["0", "True"]


def test_a_test_that_makes_an_application_leaves_the_collector_as_it_is() -> None:
    probe = (
        "import gc; before = gc.get_threshold(), gc.get_freeze_count(); "
        "from service.app import create_app; from service.config.settings import load_settings; "
        "create_app(load_settings()); "
        "print(before == (gc.get_threshold(), gc.get_freeze_count()))"
    )
    said = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert said.stdout.strip() == "True"
