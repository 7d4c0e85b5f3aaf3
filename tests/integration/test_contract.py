"""What becomes of a message, row by row of the contract, on a real broker and a real database."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aio_pika
import pytest

from db.engine import Database
from db.models import DeadLetter, Order, OutboxEvent
from service.config.settings import Settings
from tests.factories import order_created_json
from tests.harness import Wire, eventually, rows, running
from tests.integration.steps import all_published
from tests.processes import service_process

INCOMING, PROCESSED, FAILED, DLQ = (
    "order_created_queue",
    "order_processed_queue",
    "order_failed_queue",
    "order_dlq",
)


async def test_a_new_order_ends_as_a_row_and_one_event_with_the_promised_properties(
    settings: Settings, database: Database, wire: Wire
) -> None:
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with running(settings):
        await wire.listen(PROCESSED)
        await wire.send(
            order_created_json(), headers={"traceparent": traceparent}, correlation_id="corr-1"
        )
        (event,) = await wire.hear(PROCESSED, 1)
        (row,) = await rows(database, OutboxEvent)
        (order,) = await rows(database, Order)
        assert await wire.depth(INCOMING) == 0

    body = json.loads(event.body)
    assert set(body) == {"orderId", "idempotencyKey", "status", "processingTimestamp"}
    assert event.body == row.payload
    assert (event.message_id, event.type) == (row.event_id, "OrderProcessed")
    assert (event.correlation_id, event.content_type) == ("corr-1", "application/json")
    assert event.delivery_mode == 2
    assert event.timestamp is not None
    assert (event.exchange, event.routing_key) == ("order_events", "order.processed")
    assert event.headers["traceparent"] == traceparent
    assert event.headers["cloudEvents_specversion"] == "1.0"
    assert event.headers["cloudEvents_id"] == event.message_id
    assert str(order.total_amount) == "99.99"
    assert order.items == [{"sku": "85123A", "quantity": 6, "unitPrice": "2.55"}]


async def test_the_same_content_under_the_same_key_has_no_second_effect(
    settings: Settings, database: Database, wire: Wire
) -> None:
    async with running(settings) as app:
        await wire.listen(PROCESSED)
        await wire.send(order_created_json(totalAmount=99.9))
        await wire.hear(PROCESSED, 1)
        fields = json.loads(order_created_json(totalAmount="99.90", unknown=True))
        await wire.send(json.dumps(dict(reversed(fields.items()))).encode())
        duplicates = app.service.metrics.messages.labels("duplicate")

        async def counted() -> bool:
            return bool(duplicates._value.get() == 1)

        await eventually(counted)

    assert len(await rows(database, Order)) == len(await rows(database, OutboxEvent)) == 1


@pytest.mark.parametrize(
    ("body", "properties", "reason", "order_id"),
    [
        (order_created_json(totalAmount=5), {}, "IDEMPOTENCY_CONFLICT", "order-101"),
        (order_created_json(idempotencyKey="k2"), {}, "ORDER_ID_CONFLICT", "order-101"),
        (b'{"orderId": 1, "orderId": 1}', {}, "INVALID_JSON", "UNKNOWN"),
        (order_created_json(items=None), {}, "INVALID_PAYLOAD", "order-101"),
        (b"[" * 300_000, {}, "PAYLOAD_TOO_LARGE", "UNKNOWN"),
        (b"\\" * 16_000_000, {}, "PAYLOAD_TOO_LARGE", "UNKNOWN"),
        (order_created_json(), {"content_encoding": "br"}, "UNSUPPORTED_ENCODING", "UNKNOWN"),
    ],
)
async def test_what_cannot_become_an_order_ends_as_one_dead_letter_and_one_failed_event(
    settings: Settings,
    database: Database,
    wire: Wire,
    body: bytes,
    properties: dict[str, Any],
    reason: str,
    order_id: str,
) -> None:
    async with running(settings):
        await wire.listen(PROCESSED, FAILED, DLQ)
        await wire.send(order_created_json())
        await wire.hear(PROCESSED, 1)
        await wire.send(body, headers={"tenant": "t1", "deep": {"n": [1, None]}}, **properties)
        (failed,) = await wire.hear(FAILED, 1)
        (copy,) = await wire.hear(DLQ, 1)
        (letter,) = await rows(database, DeadLetter)

    event = json.loads(failed.body)
    assert (event["reason"], event["orderId"]) == (reason, order_id)
    assert event["errorDetails"]
    stored = len(body) <= 1024 * 1024
    assert copy.body == body
    assert letter.body == (body if stored else b"")
    assert copy.headers["tenant"] == "t1"
    assert copy.headers["deep"] == {"n": [1, None]}
    assert copy.headers["x-failure-reason"] == letter.reason == reason
    assert copy.headers["x-failure-details"] == event["errorDetails"]
    assert copy.message_id == letter.dead_letter_id
    assert copy.headers["x-original-queue"] == INCOMING
    assert copy.headers["x-received-at"]
    assert len(await rows(database, Order)) == 1


async def test_headers_that_would_route_are_not_obeyed_and_nobody_is_replied_to(
    settings: Settings, database: Database, wire: Wire
) -> None:
    async with running(settings):
        stranger = await wire.channel.declare_queue("stranger", durable=True)
        await wire.listen(DLQ, PROCESSED)
        await wire.send(order_created_json(), reply_to="stranger")
        await wire.send(b"poison", reply_to="stranger", headers={"BCC": ["nowhere"]})
        await wire.hear(PROCESSED, 1)
        (copy,) = await wire.hear(DLQ, 1)
        await wire.send(b"poison", headers={"CC": ["nowhere"]})
        _, with_cc = await wire.hear(DLQ, 2)
        assert await wire.depth(stranger.name) == 0

    assert "CC" not in with_cc.headers
    assert with_cc.headers["x-original-CC"] == ["nowhere"]
    assert copy.body == b"poison"


def numbered(key: int) -> bytes:
    return order_created_json(orderId=f"o-{key}", idempotencyKey=f"k-{key}")


async def test_64_copies_over_4_connections_and_2_processes_are_one_row_and_one_event(
    settings: Settings, database: Database, mq_url: str, wire: Wire
) -> None:
    copies, keys = 64, 8
    with service_process(settings) as one, service_process(settings) as two:
        for service in (one, two):
            await asyncio.to_thread(service.wait_for_status, "/health/ready", 200)
        await wire.listen(PROCESSED)

        async def producer() -> None:
            async with Wire.connected(mq_url) as own:
                for key in range(keys):
                    body = order_created_json(orderId=f"o-{key}", idempotencyKey=f"k-{key}")
                    await asyncio.gather(*(own.send(body) for _ in range(copies // 4)))

        await asyncio.gather(*(producer() for _ in range(4)))

        async def decided_by_each() -> list[int] | None:
            counts = [await asyncio.to_thread(service.decided) for service in (one, two)]
            return counts if sum(counts) >= copies * keys else None

        counts = await eventually(decided_by_each)
        await wire.hear(PROCESSED, keys)

    assert sum(counts) == copies * keys
    assert min(counts) > 0, "one process decided everything: there was no race"
    assert len(await rows(database, Order)) == keys
    assert await rows(database, DeadLetter) == []
    events = await rows(database, OutboxEvent)
    assert len(events) == keys
    await eventually(lambda: all_published(database, keys))
    assert sorted(each.message_id or "" for each in wire.heard[PROCESSED]) == sorted(
        event.event_id for event in events
    )


async def test_a_redelivered_poison_message_adds_nothing_and_an_identical_second_one_does(
    settings: Settings, database: Database, wire: Wire
) -> None:
    async with running(settings):
        await wire.listen(DLQ)
        await wire.send(b"poison", message_id="m-1")
        await wire.hear(DLQ, 1)

    await wire.send(b"poison", message_id="m-1")
    await wire.take_and_drop(INCOMING)  # now the broker hands it out as redelivered

    async with running(settings) as app:
        repeated = app.service.metrics.messages.labels("repeated")

        async def told_apart() -> bool:
            return bool(repeated._value.get() == 1)

        await eventually(told_apart)
        await wire.send(b"poison", message_id="m-1")
        await wire.hear(DLQ, 2)

    assert [letter.occurrence for letter in await rows(database, DeadLetter)] == [1, 2]


async def test_equal_first_deliveries_each_have_a_dead_letter_of_their_own(
    settings: Settings, database: Database, wire: Wire
) -> None:
    async with running(settings):
        await wire.listen(DLQ)
        for _ in range(20):
            await wire.send(b"{}", message_id="the same")
        await wire.hear(DLQ, 20)

    assert len(await rows(database, DeadLetter)) == 20


async def test_a_large_body_that_is_redelivered_is_passed_on_again_under_its_first_id(
    settings: Settings, database: Database, wire: Wire
) -> None:
    large = b"x" * 2_000_000
    async with running(settings):
        await wire.listen(DLQ)
        await wire.send(large, message_id="m-1")
        await wire.hear(DLQ, 1)

    await wire.send(large, message_id="m-1")
    await wire.take_and_drop(INCOMING)

    async with running(settings):
        first, second = await wire.hear(DLQ, 2)

    (letter,) = await rows(database, DeadLetter)
    assert first.message_id == second.message_id == letter.dead_letter_id
    assert first.body == second.body == large


async def test_a_message_that_kills_its_process_each_time_is_moved_aside_by_the_broker(
    settings: Settings, database: Database, wire: Wire
) -> None:
    async with running(settings.model_copy(update={"delivery_limit": 3})):
        pass  # declares the queues

    await wire.send(b"killer")
    for _ in range(4):
        await wire.take_and_drop(INCOMING)

    await wire.listen(DLQ)
    (dead,) = await wire.hear(DLQ, 1)
    assert dead.body == b"killer"
    assert dead.headers["x-first-death-reason"] == "delivery_limit"

    async def moved() -> bool:
        return await wire.depth(INCOMING) == 0

    await eventually(moved)


async def test_an_existing_classic_queue_is_used_as_it_is_and_a_warning_names_what_is_lost(
    settings: Settings, database: Database, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    await wire.channel.declare_queue(INCOMING, durable=True)

    async with running(settings):
        await wire.listen(PROCESSED)
        await wire.send(order_created_json())
        await wire.hear(PROCESSED, 1)

    (warning,) = [
        record.__dict__["fields"]
        for record in caplog.records
        if record.msg and record.getMessage() == "queue-differs"
    ]
    assert warning["queue"] == INCOMING
    assert "inequivalent arg" in warning["difference"]
    assert "replicated" in warning["lost"]
    assert "not moved to order_dlq" in warning["lost"]
    assert len(await rows(database, Order)) == 1


async def test_missing_queues_are_declared_durable_quorum_and_bound(
    settings: Settings, database: Database, wire: Wire, rabbit_server: Any, mq_url: str
) -> None:
    vhost = mq_url.rsplit("/", 1)[1]
    async with running(settings):
        for queue in (INCOMING, PROCESSED, FAILED, DLQ):
            arguments = await asyncio.to_thread(rabbit_server.queue_arguments, vhost, queue)
            assert arguments["x-queue-type"] == "quorum"
        exchange = await wire.channel.get_exchange("order_events", ensure=True)
        await wire.listen(PROCESSED)
        await exchange.publish(
            aio_pika.Message(order_created_json()), routing_key="order.created", mandatory=True
        )
        await wire.hear(PROCESSED, 1)
