"""The description of the messages, written by the command that a build runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.unit.test_asyncapi import COMMITTED, ROOT


def test_the_command_writes_the_same_in_another_process_and_environment(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONHASHSEED": "7",
        "ENVIRONMENT": "development",
        "MQ_URL": "amqps://somebody:s3cret-word@broker.example:5671/a-vhost",
        "DATABASE_URL": "sqlite:///elsewhere.db",
    }
    target = "service.app:app"
    subprocess.run(
        [
            *(sys.executable, "-m", "faststream", "docs", "gen", target, "--yaml"),
            *("--out", str(tmp_path / "asyncapi.yaml"), "--app-dir", str(ROOT)),
        ],
        check=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
    )
    assert (tmp_path / "asyncapi.yaml").read_text() == COMMITTED
