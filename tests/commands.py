"""`orders …` as operators run it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.processes import ROOT

# Importing alone takes two seconds of a processor that others use too.
END_SECONDS = 60.0


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "service.cli", *arguments]


def orders(
    *arguments: str,
    environment: Mapping[str, str],
    folder: Path = ROOT,
    given: str | bytes = b"",
    encoding: str = "utf-8",
) -> subprocess.CompletedProcess[str]:
    """How the command ended, and all that it said. `given` is its standard input."""
    ended = subprocess.run(
        command_line(*arguments),
        cwd=folder,
        env={"PATH": os.defpath, "COLUMNS": "500", **environment},
        input=given.encode() if isinstance(given, str) else given,
        capture_output=True,
        timeout=END_SECONDS,
        check=False,
    )
    return subprocess.CompletedProcess(
        ended.args, ended.returncode, ended.stdout.decode(encoding), ended.stderr.decode(encoding)
    )
