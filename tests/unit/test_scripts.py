"""The project's files as a fresh clone has them: scripts that start, and no registry named."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
INTERPRETERS = {b"#!/bin/sh", b"#!/usr/bin/env bash"}
# What a lock writes down, and the copy of a viewer whose script has addresses of its own in it.
NAMES_HOSTS = {"uv.lock", "package-lock.json", "index.js"}
# In parts: this file is one of those that are searched.
REGISTRIES = [
    ".".join(parts)
    for parts in (
        *(("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com")),
        *(("docker", "io"), ("quay", "io"), ("ghcr", "io"), ("gcr", "io")),
        *(("deb", "debian", "org"), ("snapshot", "debian", "org"), ("archive", "ubuntu", "com")),
    )
]


def committed() -> dict[str, str]:
    """Each file that a clone has, with git's mode; without git or its folder, as it is here."""
    if shutil.which("git") and (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "--stage", "-z"], cwd=ROOT, check=True, capture_output=True
        ).stdout.decode()
        entries = (line.split("\t") for line in listed.split("\0") if line)
        return {name: stat.split()[0] for stat, name in entries if (ROOT / name).is_file()}
    found = [Path(folder) / name for folder, _, names in os.walk(ROOT) for name in names]
    own = [file.relative_to(ROOT) for file in found if not _made_here(file.relative_to(ROOT))]
    return {str(file): f"100{0o755 if _runs(file) else 0o644:o}" for file in own}


def _made_here(file: Path) -> bool:
    return any(part in {".venv", ".uv", "run", "node_modules", "secrets"} for part in file.parts)


def _runs(file: Path) -> bool:
    return os.access(ROOT / file, os.X_OK)


def make_recipes() -> dict[str, list[str]]:
    """The commands of each target, variables put in."""
    text = (ROOT / "Makefile").read_text()
    variables = dict(re.findall(r"^(\w+) :?\??= (.*)$", text, re.M))
    recipes: dict[str, list[str]] = {}
    for target, lines in re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)*)", text, re.M):
        known = [line.lstrip("@") for line in lines.split("\t") if line.strip()]
        recipes[target] = [_expanded(line, variables) for line in known]
    return recipes


def _expanded(line: str, variables: dict[str, str]) -> str:
    """A variable's value may name another one, and that is all there is in this Makefile."""
    for _ in range(2):
        line = re.sub(r"\$\((\w+)\)", lambda name: variables.get(name[1], ""), line)
    return line


def test_every_script_runs_in_a_fresh_clone_and_names_an_interpreter_that_is_there() -> None:
    modes = committed()
    scripts = {name: mode for name, mode in modes.items() if _first_line(name).startswith(b"#!")}

    assert {"deploy/build_without_engine.sh", "tools/uv", ".ci/run"} <= set(scripts)
    assert {name for name, mode in scripts.items() if mode != "100755"} == set()
    assert {name for name, mode in modes.items() if mode == "100755"} == set(scripts)
    assert {_first_line(name) for name in scripts} <= INTERPRETERS


@pytest.mark.parametrize("target", sorted(make_recipes()))
def test_every_script_that_a_make_target_calls_is_there_and_runs(target: str) -> None:
    modes = committed()
    for command in make_recipes()[target]:
        for word in re.findall(r"(?:^|[ ;|&])((?:deploy|tools|\.ci)/[\w./-]+)", command):
            runs = modes.get(word) == "100755" or f"python {word}" in command
            assert runs, f"make {target}: {word}"


def test_every_check_of_make_check_is_a_hook() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    (checks,) = re.findall(r"^check: ([a-z -]+?) ##", (ROOT / "Makefile").read_text(), re.M)

    assert {hook["id"] for hook in hooks} == set(checks.split())
    assert [hook["entry"] for hook in hooks] == [f"make {hook['id']}" for hook in hooks]


def test_no_package_registry_is_named_but_in_locks() -> None:
    named = [
        (name, host)
        for name in committed()
        if Path(name).name not in NAMES_HOSTS
        for host in REGISTRIES
        if host.encode() in (ROOT / name).read_bytes()
    ]

    assert named == []


def _first_line(name: str) -> bytes:
    with (ROOT / name).open("rb") as file:
        return file.readline(100).rstrip()
