"""Complete the bill of materials that uv writes from uv.lock with what the lock does not name.

    uv export --locked --no-dev --format cyclonedx1.5 | python tools/sbom.py > sbom.json

uv names every locked package with its version and the hash of each of its files. Beside them the
service carries one program of another world: the viewer of /docs/asyncapi, copied from npm.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any

VIEWER = Path(__file__).parent.parent / "service/web/asyncapi/static/asyncapi-react-component"
NAMED = re.compile(r"# (?P<name>@\S+) (?P<version>\S+)")
DIGEST = re.compile(r"\(sha512-(?P<base64>\S+?)\)")


def main() -> None:
    document = json.load(sys.stdin)
    document["components"].append(viewer())
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")


def viewer() -> dict[str, Any]:
    """The component as its README names it, with the hash of the script that browsers run.

    The package's own hash, which the README has from npm, tells it from others in any registry.
    """
    text = (VIEWER / "README.md").read_text()
    named, digest = NAMED.search(text), DIGEST.search(text)
    if named is None or digest is None:
        raise SystemExit(f"{VIEWER / 'README.md'} names no package, version and hash")
    name, version = named["name"], named["version"]
    purl = f"pkg:npm/{name.replace('@', '%40')}@{version}"
    return {
        "type": "library",
        "bom-ref": purl,
        "name": name,
        "version": version,
        "purl": purl,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
        "hashes": [{"alg": "SHA-512", "content": base64.b64decode(digest["base64"]).hex()}],
        "components": [
            {
                "type": "file",
                "name": "index.js",
                "hashes": [{"alg": "SHA-256", "content": _sha256(VIEWER / "index.js")}],
            }
        ],
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
