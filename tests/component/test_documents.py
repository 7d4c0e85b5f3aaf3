"""The contract as a page and as a file: served whole by the service, nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest
import yaml

from service.app import create_app
from tests.harness import settings_for

ROOT = Path(__file__).parents[2]
PAGE = "/docs/asyncapi"
ORIGIN = "http://localhost"


class Loaded(HTMLParser):
    """What a page makes a browser load: scripts, styles, icons, images."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.others: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "script":
            self.scripts.append(found.get("src") or "")
        elif tag in {"link", "img", "iframe", "source", "object", "embed"}:
            self.others += [found[key] or "" for key in ("href", "src", "data") if key in found]


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings_for(sqlite_path=tmp_path / "orders.db"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as http:
        yield http
    await app.service.database.dispose()


async def test_the_page_loads_only_what_the_service_serves(client: httpx.AsyncClient) -> None:
    page = await client.get(PAGE)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    loaded = Loaded(page.text)
    assert all(loaded.scripts), "a script in the page itself breaks its own policy"
    urls = [url for url in loaded.scripts + loaded.others if not url.startswith("data:")]
    assert len(urls) == 4
    for url in urls:
        assert not re.match(r"([a-z]+:)?//", url), url
        answer = await client.get(urljoin(PAGE, url))
        assert answer.status_code == 200, url
        assert answer.content
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_styles_and_our_script_load_nothing_more(client: httpx.AsyncClient) -> None:
    page = await client.get(PAGE)
    loaded = Loaded(page.text)
    for url in loaded.others + loaded.scripts:
        if url.startswith("data:") or url.split("?")[0].endswith("/index.js"):
            continue  # the viewer names addresses without loading them; the policy is its bound
        text = (await client.get(urljoin(PAGE, url))).text
        assert not re.search(r"@import|url\(|fetch\([\"'`]", text)


async def test_the_policy_lets_nothing_in_from_elsewhere(client: httpx.AsyncClient) -> None:
    policy = (await client.get(PAGE)).headers["content-security-policy"]
    directives = dict(part.strip().split(" ", 1) for part in policy.split(";"))
    assert directives.pop("default-src") == "'none'"
    allowed = {"'self'", "'none'", "data:", "'unsafe-eval'"}
    assert {word for sources in directives.values() for word in sources.split()} <= allowed
    assert "'unsafe-eval'" not in directives["style-src"]


async def test_nothing_can_be_sent_from_the_page(client: httpx.AsyncClient) -> None:
    page = (await client.get(PAGE)).text
    assert "try-it" not in page.lower()
    assert (await client.post(f"{PAGE}/try", json={})).status_code == 404
    assert (await client.post(PAGE, json={})).status_code == 405


async def test_yaml_is_the_committed_file_and_json_the_same(client: httpx.AsyncClient) -> None:
    as_yaml = await client.get(f"{PAGE}.yaml")
    as_json = await client.get(f"{PAGE}.json")
    assert as_yaml.text == (ROOT / "asyncapi.yaml").read_text()
    assert as_yaml.headers["content-type"].startswith("application/yaml")
    assert as_json.json() == yaml.safe_load(as_yaml.text)
    assert as_json.headers["content-type"] == "application/json"


async def test_the_page_shows_this_deployments_server_and_no_login() -> None:
    url = "amqps://someone:c4nary@mq.example.com/shop"
    app = create_app(settings_for(mq_url=url, database_url="sqlite+aiosqlite://"))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as http:
        answer = await http.get(f"{PAGE}.json")
    await app.service.database.dispose()
    (server,) = answer.json()["servers"].values()
    assert (server["protocol"], server["host"]) == ("amqps", "mq.example.com:5671")
    assert server["pathname"] == "/shop"
    assert "c4nary" not in answer.text
    assert "someone" not in answer.text
    assert "mq.example.com" not in app.schema.to_specification().to_yaml()


@pytest.mark.parametrize("path", [PAGE, f"{PAGE}.json", f"{PAGE}.yaml"])
async def test_a_document_is_not_sent_twice(client: httpx.AsyncClient, path: str) -> None:
    first = await client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    again = await client.get(path, headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_no_file_beside_the_static_ones_is_served(client: httpx.AsyncClient) -> None:
    for path in ("../contract.py", "%2e%2e/contract.py", "..%2fcontract.py", "nothing.js"):
        assert (await client.get(f"/docs/static/{path}")).status_code == 404


def test_the_licence_stands_beside_what_is_not_ours() -> None:
    viewer = files("service.web.asyncapi") / "static" / "asyncapi-react-component"
    assert "Apache License" in (viewer / "LICENSE").read_text()
    assert "@asyncapi/react-component 3.2.1" in (viewer / "README.md").read_text()
    assert "MIT" in (viewer / "index.js.LICENSE.txt").read_text()
