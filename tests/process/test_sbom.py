"""`make sbom` names everything that the service is made of."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOCKED = {
    package["name"]: package for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]
}
VIEWER = "@asyncapi/react-component"


@pytest.fixture(scope="module")
def components(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the document names, by name."""
    path = tmp_path_factory.mktemp("sbom") / "sbom.json"
    # What an outer make hands down would speak to it, not to this one.
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    subprocess.run(["make", "sbom", f"SBOM={path}"], cwd=ROOT, env=environment, check=True)
    document = json.loads(path.read_text())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.5")
    assert document["metadata"]["component"]["name"] == "order-service"
    return {component["name"]: component for component in document["components"]}


def runtime_packages() -> set[str]:
    """All that the project needs to run, and what that needs in turn, by any platform's lights."""
    found: set[str] = set()
    # A package with the extras it is asked for with.
    waiting: list[tuple[str, tuple[str, ...]]] = [("order-service", ())]
    seen: set[tuple[str, tuple[str, ...]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(name)
        package = LOCKED[name]
        needed = list(package.get("dependencies", []))
        for extra in extras:
            needed += package.get("optional-dependencies", {}).get(extra, [])
        waiting += [(each["name"], tuple(each.get("extra", ()))) for each in needed]
    return found - {"order-service"}


def test_every_locked_runtime_package_is_named_with_its_version(
    components: dict[str, dict[str, Any]],
) -> None:
    needed = runtime_packages()

    assert len(needed) > 30
    assert {name: LOCKED[name]["version"] for name in needed} == {
        name: component["version"] for name, component in components.items() if name != VIEWER
    }


def test_every_file_of_a_package_is_named_with_the_hash_that_is_locked(
    components: dict[str, dict[str, Any]],
) -> None:
    for name in runtime_packages():
        package = LOCKED[name]
        if "editable" in package["source"]:
            continue  # our own, in this repository: of no index
        files = [*package.get("wheels", []), *filter(None, [package.get("sdist")])]
        named = {
            reference["url"]: f"sha256:{digest['content']}"
            for reference in components[name]["externalReferences"]
            for digest in reference["hashes"]
        }
        assert named == {file["url"]: file["hash"] for file in files}, name


def test_the_viewer_that_was_copied_in_is_named_as_it_is(
    components: dict[str, dict[str, Any]],
) -> None:
    script = ROOT / "service/web/asyncapi/static/asyncapi-react-component/index.js"
    (file,) = components[VIEWER]["components"]

    assert components[VIEWER]["purl"].startswith("pkg:npm/%40asyncapi/react-component@")
    assert file["hashes"] == [
        {"alg": "SHA-256", "content": hashlib.sha256(script.read_bytes()).hexdigest()}
    ]
