"""The operators' page over HTTP, served by the whole service in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from service.app import ServiceApp, create_app
from service.config.settings import Settings
from service.web.console import STATIC
from tests.factories import order_created_fields, order_created_json
from tests.harness import eventually, settings_for

ORIGIN = "http://localhost"
CANARY = "canary-7f3a"
JSON = {"content-type": "application/json"}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_for(sqlite_path=tmp_path / "orders.db")


@asynccontextmanager
async def browsing(app: ServiceApp) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN) as client:
        yield client


@asynccontextmanager
async def embedded(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the embedded service, running."""
    app = create_app(settings)
    async with app.start_lifespan_context(), browsing(app) as client:
        yield client


async def send(client: httpx.AsyncClient, body: bytes, **headers: str) -> httpx.Response:
    return await client.post("/console/send", content=body, headers=JSON | headers)


async def data(client: httpx.AsyncClient) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get("/console/data.json")).json()
    return found


async def data_once_published(client: httpx.AsyncClient, count: int) -> dict[str, Any]:
    """The page's data, once the relay has published so many events and the outbox is empty."""

    async def drained() -> dict[str, Any] | None:
        found = await data(client)
        done = found["process"]["published"] == count and found["outbox"]["pending"] == 0
        return found if done and not found["latest"]["events"] else None

    drained_data: dict[str, Any] = await eventually(drained)
    return drained_data


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/console", "text/html"),
        ("/console/console.css", "text/css"),
        ("/console/console.js", "text/javascript"),
    ],
)
async def test_the_page_and_its_parts_run_nothing_but_what_we_serve(
    settings: Settings, path: str, media_type: str
) -> None:
    async with embedded(settings) as client:
        answer = await client.get(path)

        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(media_type)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_root_leads_to_the_page(settings: Settings) -> None:
    async with embedded(settings) as client:
        answer = await client.get("/", follow_redirects=True)

        assert answer.url == f"{ORIGIN}/console"
        assert "<title>Orders</title>" in answer.text


def test_the_page_is_small_works_offline_and_writes_text_only() -> None:
    parts = {part.name: part.read_text() for part in STATIC.iterdir()}

    assert sum(len(text.encode()) for text in parts.values()) < 20_000
    addresses = " ".join(parts.values()).replace("http://www.w3.org/2000/svg", "")
    assert "://" not in addresses
    for writes_markup in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write"):
        assert writes_markup not in parts["console.js"]


async def test_before_the_first_message_everything_is_zero_and_well(
    settings: Settings,
) -> None:
    async with embedded(settings) as client:

        async def ready() -> dict[str, Any] | None:
            found = await data(client)
            return found if all(found["status"].values()) else None

        found = await eventually(ready)

        assert found["mode"] == "embedded"
        assert found["totals"] | {"countedAt": ""} == {
            "orders": 0,
            "deadLetters": 0,
            "reasons": {},
            "countedAt": "",
        }
        assert found["outbox"] == {"pending": 0, "parked": 0, "oldestPendingSeconds": 0}
        assert found["latest"] == {"orders": [], "deadLetters": [], "events": []}


async def test_the_numbers_follow_what_was_processed(settings: Settings) -> None:
    async with embedded(settings) as client:
        line = {"sku": "85123A", "quantity": 1, "unitPrice": 1}
        await send(
            client, order_created_json(orderId="o-1", totalAmount="1234.5", items=[line] * 3)
        )
        await send(
            client, order_created_json(orderId="o-1", totalAmount="1234.5", items=[line] * 3)
        )
        await send(client, order_created_json(orderId="o-2", idempotencyKey="k-2", items=[]))
        await send(client, order_created_json(orderId="o-3", idempotencyKey="k-2"))
        await send(client, b"{")

        found = await data_once_published(client, 2 + 2 * 2)

        assert found["totals"]["orders"] == 2
        assert found["totals"]["deadLetters"] == 2
        assert found["totals"]["reasons"] == {"IDEMPOTENCY_CONFLICT": 1, "INVALID_JSON": 1}
        assert found["process"]["received"] == 5
        assert found["process"]["repeated"] == 1
        latest = found["latest"]
        assert [(each["id"], each["amount"], each["lines"]) for each in latest["orders"]] == [
            ("o-2", "99.99", 0),
            ("o-1", "1234.50", 3),
        ]
        assert [(each["orderId"], each["reason"]) for each in latest["deadLetters"]] == [
            (None, "INVALID_JSON"),
            ("o-3", "IDEMPOTENCY_CONFLICT"),
        ]


async def test_only_the_latest_are_listed_newest_first(settings: Settings) -> None:
    async with embedded(settings) as client:
        for number in range(17):
            await send(
                client, order_created_json(orderId=f"o-{number}", idempotencyKey=f"k-{number}")
            )
            await send(client, order_created_json(orderId=f"bad-{number}", totalAmount=0))

        latest = (await data(client))["latest"]

        assert [each["id"] for each in latest["orders"]] == [f"o-{n}" for n in range(16, 1, -1)]
        assert [each["orderId"] for each in latest["deadLetters"]] == [
            f"bad-{n}" for n in range(16, 1, -1)
        ]


async def test_no_value_of_a_payload_is_shown_but_an_orders_id_and_amount(
    settings: Settings,
) -> None:
    async with embedded(settings) as client:
        item = {"sku": CANARY, "quantity": 1, "unitPrice": 1, "note": CANARY}
        await send(
            client,
            order_created_json(userId=CANARY, idempotencyKey=CANARY, items=[item], note=CANARY),
        )
        await send(
            client, order_created_json(userId=CANARY, totalAmount=CANARY, idempotencyKey="k 2")
        )
        await send(client, f'{{"orderId": "{CANARY}'.encode())

        found = await data_once_published(client, 1 + 2 * 2)

        assert found["totals"]["orders"] == 1
        assert found["totals"]["deadLetters"] == 2
        assert CANARY not in (await client.get("/console/data.json")).text


async def test_what_is_not_published_is_listed_without_its_payload(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"relay_poll_seconds": 60}))
    async with app.start_lifespan_context(), browsing(app) as client:
        await app.service.supervisor.stop("relay")
        await send(client, order_created_json(orderId="o-1", userId=CANARY))

        answer = await client.get("/console/data.json")

    (event,) = answer.json()["latest"]["events"]
    assert event | {"at": ""} == {
        "type": "OrderProcessed",
        "aggregate": "order o-1",
        "attempts": 0,
        "error": None,
        "parked": False,
        "at": "",
    }
    assert CANARY not in answer.text


async def test_the_sample_order_is_accepted_as_it_is(settings: Settings) -> None:
    async with embedded(settings) as client:
        sample = await client.get("/console/sample.json")

        answer = await send(
            client, sample.content, origin=ORIGIN, **{"sec-fetch-site": "same-origin"}
        )

        assert answer.status_code == 202
        assert UUID(answer.json()["messageId"]).version == 7
        (order,) = (await data(client))["latest"]["orders"]
        assert order["id"] == sample.json()["orderId"]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://elsewhere.test"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": ORIGIN},
    ],
)
async def test_a_page_from_elsewhere_cannot_send(
    settings: Settings, headers: dict[str, str]
) -> None:
    async with embedded(settings) as client:
        answer = await send(client, order_created_json(), **headers)

        assert answer.status_code == 403
        assert (await data(client))["totals"]["orders"] == 0


async def test_only_json_of_a_bearable_size_can_be_sent(settings: Settings) -> None:
    async with embedded(settings) as client:
        form = await client.post("/console/send", data=order_created_fields(items=""))
        large = await send(client, b" " * (1024 * 1024 + 1))
        largest = await send(client, b" " * (1024 * 1024))

        assert (form.status_code, large.status_code, largest.status_code) == (415, 413, 202)
        assert (await data(client))["totals"]["reasons"] == {"PAYLOAD_TOO_LARGE": 1}


async def test_with_real_servers_nothing_can_be_sent_and_no_credential_is_shown() -> None:
    app = create_app(
        settings_for(
            database_url=f"mysql://user:{CANARY}@127.0.0.1:1/order_db",
            mq_url=f"amqp://user:{CANARY}@127.0.0.1:1/",
        )
    )
    async with browsing(app) as client:
        assert (await client.get("/console")).status_code == 200
        assert (await send(client, order_created_json())).status_code == 404
        assert (await client.get("/console/sample.json")).status_code == 404
        answer = await client.get("/console/data.json")
    await app.service.database.dispose()

    found = answer.json()
    assert (found["mode"], found["sending"]) == ("servers", False)
    assert (found["broker"], found["database"]) == ("127.0.0.1:1/", "127.0.0.1:1/order_db")
    assert not any(found["status"].values())
    assert (found["waiting"], found["totals"], found["latest"]) == (None, None, None)
    assert CANARY not in answer.text
