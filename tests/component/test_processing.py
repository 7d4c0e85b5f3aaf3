"""The whole service in memory: FastStream's test broker, SQLite, the same `create_app`.

Copy this to test a subscriber of your own against this service: no server is needed.
"""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from faststream.rabbit import ExchangeType, RabbitExchange, RabbitQueue

from db.models import DeadLetter, Order, OutboxEvent
from service.app import ServiceApp, create_app
from tests.factories import order_created_json
from tests.harness import eventually, rows, settings_for
from tests.patience import PATIENCE_SECONDS

INCOMING = "order_created_queue"


@pytest.fixture
def app(tmp_path: Path) -> ServiceApp:
    return create_app(settings_for(sqlite_path=tmp_path / "orders.db"))


@pytest.fixture
def published(app: ServiceApp) -> asyncio.Queue[dict[str, Any]]:
    """What the service publishes to its exchange, as a subscriber of another service gets it."""
    events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    @app.service.broker.subscriber(
        RabbitQueue("observer", routing_key="order.*"),
        RabbitExchange("order_events", type=ExchangeType.TOPIC),
    )
    async def observe(event: dict[str, Any]) -> None:
        await events.put(event)

    return events


async def send(app: ServiceApp, body: bytes, **options: Any) -> None:
    await app.service.broker.publish(body, queue=INCOMING, **options)


async def next_event(published: asyncio.Queue[dict[str, Any]]) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await published.get()


async def test_a_new_order_is_stored_and_its_event_published(
    app: ServiceApp, published: asyncio.Queue[dict[str, Any]]
) -> None:
    async with app.start_lifespan_context():
        await send(app, order_created_json(orderId="o-1", totalAmount="99.90"))

        event = await next_event(published)
        (order,) = await rows(app.service.database, Order)

    assert event["orderId"] == order.order_id == "o-1"
    assert event["status"] == "PROCESSED"
    assert event["processingTimestamp"].endswith("Z")
    assert str(order.total_amount) == "99.90"


async def test_the_same_order_again_has_no_effect(app: ServiceApp) -> None:
    async with app.start_lifespan_context():
        await send(app, order_created_json(totalAmount=99.9))
        await send(app, order_created_json(totalAmount="99.90", unknownField=1))

        assert len(await rows(app.service.database, Order)) == 1
        assert len(await rows(app.service.database, OutboxEvent)) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"totalAmount": 1}, "IDEMPOTENCY_CONFLICT"),
        ({"idempotencyKey": "another-key"}, "ORDER_ID_CONFLICT"),
    ],
)
async def test_a_conflict_becomes_a_dead_letter_and_the_first_order_stays(
    app: ServiceApp, changes: dict[str, Any], reason: str
) -> None:
    async with app.start_lifespan_context():
        await send(app, order_created_json(totalAmount="50.00"))
        await send(app, order_created_json(**{"totalAmount": "50.00"} | changes))

        (order,) = await rows(app.service.database, Order)
        (letter,) = await rows(app.service.database, DeadLetter)

    assert str(order.total_amount) == "50.00"
    assert letter.reason == reason


@pytest.mark.parametrize(
    ("body", "reason", "order_id"),
    [
        (b"{", "INVALID_JSON", "UNKNOWN"),
        (b"\xff\xfe", "INVALID_JSON", "UNKNOWN"),
        (b"", "INVALID_JSON", "UNKNOWN"),
        (b"null", "INVALID_PAYLOAD", "UNKNOWN"),
        (b"[]", "INVALID_PAYLOAD", "UNKNOWN"),
        (b'"text"', "INVALID_PAYLOAD", "UNKNOWN"),
        (b'{"orderId": "o-9"}', "INVALID_PAYLOAD", "o-9"),
        (b'{"order": {"orderId": "o-9"}}', "INVALID_PAYLOAD", "UNKNOWN"),
        (order_created_json(totalAmount=0), "INVALID_PAYLOAD", "order-101"),
        (b" " * (256 * 1024 + 1), "PAYLOAD_TOO_LARGE", "UNKNOWN"),
    ],
)
async def test_what_cannot_become_an_order_becomes_one_dead_letter_with_its_bytes(
    app: ServiceApp, body: bytes, reason: str, order_id: str
) -> None:
    async with app.start_lifespan_context():
        await send(app, body)

        (letter,) = await rows(app.service.database, DeadLetter)
        failed, copy = await rows(app.service.database, OutboxEvent)

    assert (letter.reason, letter.body) == (reason, body)
    assert (copy.event_type, copy.payload) == ("DeadLetter", body)
    assert copy.headers["x-failure-reason"] == reason
    event = json.loads(failed.payload)
    assert (event["reason"], event["orderId"]) == (reason, order_id)


async def test_a_content_encoding_is_refused(app: ServiceApp) -> None:
    async with app.start_lifespan_context():
        await send(app, order_created_json(), content_encoding="gzip")

        (letter,) = await rows(app.service.database, DeadLetter)

    assert letter.reason == "UNSUPPORTED_ENCODING"


@pytest.mark.parametrize(
    "options",
    [
        {"message_type": "OrderCancelled"},
        {"message_type": "OrderCreated.v2"},
        {"headers": {"cloudEvents:type": "com.example.OrderCancelled"}},
        {"headers": {"__TypeId__": "com.example.OrderShipped"}},
    ],
)
async def test_a_message_of_another_type_is_one_dead_letter(
    app: ServiceApp, options: dict[str, Any]
) -> None:
    async with app.start_lifespan_context():
        await send(app, order_created_json(), **options)

        assert await rows(app.service.database, Order) == []
        (letter,) = await rows(app.service.database, DeadLetter)
        failed, copy = await rows(app.service.database, OutboxEvent)

    assert letter.reason == "UNSUPPORTED_TYPE"
    assert letter.details.endswith(": must name OrderCreated, or be absent")
    assert json.loads(failed.payload)["orderId"] == "UNKNOWN"
    assert copy.payload == order_created_json()


async def test_a_structured_cloud_event_is_the_order_that_is_in_it(app: ServiceApp) -> None:
    event = {
        "specversion": "1.0",
        "id": "e-1",
        "source": "/shop",
        "type": "com.example.order.created",
        "data": json.loads(order_created_json()),
    }
    coded = {name: event[name] for name in event if name != "data"}
    coded["data_base64"] = base64.b64encode(order_created_json(totalAmount="99.990")).decode()
    structured = "application/cloudevents+json; charset=utf-8"
    async with app.start_lifespan_context():
        await send(app, json.dumps(event).encode(), content_type=structured)
        await send(app, json.dumps(coded).encode(), content_type=structured)
        await send(app, order_created_json())

        (order,) = await rows(app.service.database, Order)
        (processed,) = await rows(app.service.database, OutboxEvent)

    assert (order.order_id, str(order.total_amount)) == ("order-101", "99.99")
    assert processed.event_type == "OrderProcessed"


@pytest.mark.parametrize(
    ("changes", "reason", "details"),
    [
        ({"type": "Other"}, "UNSUPPORTED_TYPE", "type: must name OrderCreated"),
        ({"data": {"orderId": "o-9"}}, "INVALID_PAYLOAD", "userId: Field required"),
        ({"data": ["x"]}, "INVALID_PAYLOAD", "body: Input should be an object"),
        ({"data_base64": "e30="}, "INVALID_PAYLOAD", "data: either this or data_base64"),
        ({"data": "\ud800"}, "INVALID_JSON", "body: a lone surrogate"),
    ],
)
async def test_a_structured_cloud_event_without_an_order_is_a_dead_letter(
    app: ServiceApp, changes: dict[str, Any], reason: str, details: str
) -> None:
    event = {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "OrderCreated"}
    body = json.dumps(event | {"data": {}} | changes).encode()
    async with app.start_lifespan_context():
        await send(app, body, content_type="application/cloudevents+json")

        (letter,) = await rows(app.service.database, DeadLetter)

    assert (letter.reason, letter.body) == (reason, body)
    assert letter.details.startswith(details)


async def test_trace_and_correlation_travel_from_the_message_to_its_event(app: ServiceApp) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with app.start_lifespan_context():
        await send(
            app,
            order_created_json(),
            headers={"traceparent": traceparent},
            correlation_id="correlation-7",
        )

        (event,) = await rows(app.service.database, OutboxEvent)

    assert event.headers["traceparent"] == traceparent
    assert event.correlation_id == "correlation-7"


async def test_a_batch_gives_each_message_its_own_outcome(app: ServiceApp) -> None:
    async with app.start_lifespan_context():
        await asyncio.gather(
            *(
                send(app, order_created_json(orderId=f"o-{n}", idempotencyKey=f"k-{n}"))
                for n in range(50)
            ),
            *(send(app, order_created_json(orderId="o-0", idempotencyKey="k-0")) for _ in range(9)),
            send(app, order_created_json(orderId="o-1", idempotencyKey="stranger")),
            send(app, b"poison"),
        )

        assert len(await rows(app.service.database, Order)) == 50
        reasons = {letter.reason for letter in await rows(app.service.database, DeadLetter)}

    assert reasons == {"ORDER_ID_CONFLICT", "INVALID_JSON"}


async def test_everything_in_the_outbox_gets_published(app: ServiceApp) -> None:
    async with app.start_lifespan_context():
        for n in range(5):
            await send(app, order_created_json(orderId=f"o-{n}", idempotencyKey=f"k-{n}"))

        async def all_published() -> bool:
            events = await rows(app.service.database, OutboxEvent)
            return len(events) == 5 and all(event.published_at for event in events)

        assert await eventually(all_published)


async def test_a_body_that_no_decoder_reads_is_a_dead_letter_and_stops_no_event(
    app: ServiceApp, published: asyncio.Queue[dict[str, Any]]
) -> None:
    async def all_is_published() -> bool:
        events = await rows(app.service.database, OutboxEvent)
        return len(events) == 3 and all(event.published_at for event in events)

    async with app.start_lifespan_context():
        await send(app, b"[" * 5000)
        await send(app, order_created_json())
        await eventually(all_is_published)
