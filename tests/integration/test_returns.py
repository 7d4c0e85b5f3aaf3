"""What the service has published comes back to it: by a binding, a retry queue, or by hand."""

from __future__ import annotations

from typing import Any

import pytest
from aio_pika.abc import AbstractIncomingMessage
from sqlalchemy import delete

import service.consumer.batcher
from db import dead_letters
from db.engine import Database
from db.models import DeadLetter, Order, OutboxEvent
from service.app import ServiceApp
from service.config.settings import Settings
from service.rabbitmq.field_table import BROKER_HEADERS
from tests.factories import order_created_json
from tests.harness import Wire, eventually, rows, running
from tests.integration.steps import (
    DLQ,
    FAILED,
    INCOMING,
    PROCESSED,
    all_published,
    counted,
    numbered,
    send,
)

EXCHANGE = "order_events"
INVALID = b'{"orderId": "o-1"}'
UNKNOWN_ID = "0191b2a4-0000-7000-8000-000000000000"
LARGE = b"x" * (1024 * 1024 + 1)


async def move(wire: Wire, copy: AbstractIncomingMessage, body: bytes | None = None) -> None:
    """As a shovel or an operator does: body, properties and headers as they are."""
    await wire.send(
        copy.body if body is None else body,
        headers=copy.headers,
        content_type=copy.content_type,
        content_encoding=copy.content_encoding,
        correlation_id=copy.correlation_id,
        message_id=copy.message_id,
        timestamp=copy.timestamp,
        type=copy.type,
        app_id=copy.app_id,
    )


async def decided(app: ServiceApp, outcome: str, count: int) -> None:
    async def enough() -> bool:
        return await counted(app, outcome) >= count

    await eventually(enough)


async def the_letters(database: Database) -> list[Any]:
    return await rows(database, DeadLetter)


async def test_events_that_a_binding_brings_back_are_recorded_once_each_and_publish_nothing(
    settings: Settings, database: Database, wire: Wire
) -> None:
    async with running(settings) as app:
        incoming = await wire.channel.get_queue(INCOMING, ensure=False)
        await incoming.bind(EXCHANGE, "order.*")
        await send(wire, range(3))
        await wire.send(INVALID)
        # Three events of orders and one OrderFailed; the dead letter's copy is the dead letter.
        await decided(app, "dead_lettered", 1 + 4)
        await decided(app, "returned", 1)
        await eventually(lambda: all_published(database, 3 + 2))

        letters = await the_letters(database)
        assert sorted(each.reason for each in letters) == [
            "INVALID_PAYLOAD",
            *4 * ["UNSUPPORTED_TYPE"],
        ]
        (failed,) = [each for each in letters if each.reason == "INVALID_PAYLOAD"]
        assert failed.attempts == 2
        await wire.listen(PROCESSED)
        heard = await wire.hear(PROCESSED, 3)
        await incoming.unbind(EXCHANGE, "order.*")
        for copy in heard:
            await move(wire, copy)
        await decided(app, "repeated", 3)

    assert len(await rows(database, Order)) == 3
    assert len(await rows(database, OutboxEvent)) == 5
    assert len(await the_letters(database)) == 5


async def test_a_dead_letter_that_a_retry_queue_brings_back_is_the_same_with_one_more_attempt(
    settings: Settings, database: Database, wire: Wire
) -> None:
    back = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": INCOMING}
    retrying: Any = {"x-queue-type": "quorum", "x-message-ttl": 200, **back}
    await wire.channel.declare_queue(DLQ, durable=True, arguments=retrying)
    async with running(settings) as app:
        await wire.send(INVALID)
        await decided(app, "returned", 1)
        await eventually(lambda: all_published(database, 2))
        (letter,) = await the_letters(database)
        assert (letter.attempts, letter.redriven_at) == (2, None)
        assert await wire.depth(DLQ) == await wire.depth(INCOMING) == 0
    assert len(await rows(database, OutboxEvent)) == 2


async def test_a_dead_letter_moved_back_by_hand_counts_each_attempt_and_may_become_an_order(
    settings: Settings, database: Database, wire: Wire
) -> None:
    async with running(settings) as app:
        await wire.listen(DLQ)
        await wire.send(numbered(1))
        await wire.send(order_created_json(orderId="o-1", idempotencyKey="another"))
        (copy,) = await wire.hear(DLQ, 1)
        await move(wire, copy)
        await move(wire, copy)
        await decided(app, "returned", 2)
        (letter,) = await the_letters(database)
        assert (letter.reason, letter.attempts) == ("ORDER_ID_CONFLICT", 3)
        assert letter.redriven_at is None

        async with database.transaction() as connection:
            await connection.execute(delete(Order))
        await move(wire, copy)
        await eventually(lambda: all_published(database, 1 + 2 + 1))
        (letter,) = await the_letters(database)
        assert letter.redriven_at is not None
    (order,) = await rows(database, Order)
    assert order.idempotency_key == "another"


async def test_a_copy_that_somebody_has_mended_is_a_message_of_its_own(
    settings: Settings, database: Database, wire: Wire
) -> None:
    async with running(settings) as app:
        await wire.listen(DLQ)
        await wire.send(INVALID)
        (copy,) = await wire.hear(DLQ, 1)
        await move(wire, copy, body=numbered(1))
        await decided(app, "accepted", 1)
        await move(wire, copy, body=b"mended badly")
        await decided(app, "dead_lettered", 2)
    reasons = {each.reason: each.attempts for each in await the_letters(database)}
    assert reasons == {"INVALID_PAYLOAD": 1, "INVALID_JSON": 1}


async def test_a_copy_whose_body_no_row_has_is_passed_back_so_often_and_then_set_aside(
    settings: Settings, database: Database, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service.consumer.batcher, "MOST_PASSES", 3)
    monkeypatch.setattr(service.consumer.batcher, "PASS_BACK_SECONDS", 0.0)
    async with running(settings) as app:
        incoming = await wire.channel.get_queue(INCOMING, ensure=False)
        await incoming.bind(EXCHANGE, "order.dead_letter")
        await wire.listen(DLQ)
        await wire.send(LARGE)
        await decided(app, "returned", 3)
        copies = await wire.hear(DLQ, 4)
    assert {each.body for each in copies} == {LARGE}
    assert len({each.message_id for each in copies}) == 1
    sent = [{k: v for k, v in each.headers.items() if k not in BROKER_HEADERS} for each in copies]
    assert all(each == sent[0] for each in sent)
    assert await wire.depth(INCOMING) == 0
    (letter,) = await the_letters(database)
    assert (letter.reason, letter.attempts) == ("PAYLOAD_TOO_LARGE", 4)
    assert [each.event_type for each in await rows(database, OutboxEvent)] == ["OrderFailed"]


async def test_an_event_with_another_body_under_the_same_id_is_recorded_too(
    settings: Settings, database: Database, wire: Wire
) -> None:
    ours: Any = {"app_id": "order-service", "type": "OrderProcessed", "message_id": UNKNOWN_ID}
    async with running(settings) as app:
        for body in (b"one", b"another", b"one"):
            await wire.send(body, **ours)
        await decided(app, "dead_lettered", 2)
        await decided(app, "repeated", 1)
    assert sorted(each.body for each in await the_letters(database)) == [b"another", b"one"]
    assert await rows(database, OutboxEvent) == []


async def test_a_dead_letter_whose_row_is_deleted_while_it_is_decided_is_recorded_anew(
    settings: Settings, database: Database, wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_attempts = dead_letters.count_attempts

    async def deleted_first(*arguments: Any) -> None:
        async with database.transaction() as connection:
            await connection.execute(delete(DeadLetter))
        await count_attempts(*arguments)

    async with running(settings):
        await wire.listen(DLQ)
        await wire.send(INVALID)
        (copy,) = await wire.hear(DLQ, 1)
        monkeypatch.setattr(dead_letters, "count_attempts", deleted_first)
        await move(wire, copy)
        await wire.hear(DLQ, 2)
        (letter,) = await the_letters(database)
    assert letter.dead_letter_id != copy.message_id
    assert (letter.attempts, letter.body) == (1, INVALID)


async def test_who_only_claims_to_be_ours_is_read_as_any_sender(
    settings: Settings, database: Database, wire: Wire
) -> None:
    async with running(settings) as app:
        await wire.listen(FAILED)
        await wire.send(
            numbered(1), headers={"x-dead-letter-id": UNKNOWN_ID}, message_id=UNKNOWN_ID
        )
        await wire.send(INVALID, headers={"x-dead-letter-id": UNKNOWN_ID}, type="OrderProcessed")
        await decided(app, "accepted", 1)
        await decided(app, "dead_lettered", 1)
        await wire.hear(FAILED, 1)
    (letter,) = await the_letters(database)
    assert letter.attempts == 1
