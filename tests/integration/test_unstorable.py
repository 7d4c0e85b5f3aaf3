"""A valid order that the database refuses for good, and a message that meets a defect of ours."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest
from sqlalchemy import text

import db.engine
import service.consumer.batcher
from db.engine import Database
from db.models import DeadLetter, Order
from service.config.settings import Settings
from service.consumer import subscriber
from service.consumer.unit_of_work import plan_batch
from service.domain.errors import DatabaseAwayError
from service.observability import Action
from tests.factories import order_created_json
from tests.harness import Wire, eventually, logged, rows, running
from tests.integration.steps import (
    DLQ,
    FAILED,
    INCOMING,
    all_published,
    counted,
    numbered,
    send,
    stored,
)
from tests.servers import AnyDatabase, GivenDatabase

REFUSED_USER = "never"
PACKET_BYTES = 128 * 1024
KILLED_SESSIONS = 8
FAILED_CONNECTIONS = 12


def refused_order(number: int = 1, **fields: Any) -> bytes:
    return order_created_json(
        orderId=f"bad-{number}", idempotencyKey=f"bad-{number}", userId=REFUSED_USER, **fields
    )


async def refuse_a_user(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            text(f"ALTER TABLE orders ADD CONSTRAINT CHECK (user_id <> '{REFUSED_USER}')")
        )


async def test_an_order_that_the_database_refuses_is_one_dead_letter_and_its_neighbours_are_stored(
    settings: Settings, database: Database, wire: Wire
) -> None:
    await refuse_a_user(database)
    async with running(settings) as app:
        await wire.listen(DLQ, FAILED)
        await send(wire, range(10))
        await wire.send(refused_order())
        await send(wire, range(10, 20))
        await eventually(lambda: all_published(database, 20 + 2))
        (copy,) = await wire.hear(DLQ, 1)
        (failed,) = await wire.hear(FAILED, 1)
        assert await counted(app, "dead_lettered") == 1

        # Moved back it is decided anew: still refused, and nothing more is published.
        await wire.send(copy.body, headers=copy.headers, message_id=copy.message_id)
        await eventually(lambda: returned(app))
    assert copy.body == refused_order()
    assert copy.headers["x-failure-reason"] == "UNSTORABLE"
    assert b'"reason":"UNSTORABLE"' in failed.body
    assert b'"orderId":"bad-1"' in failed.body
    assert REFUSED_USER.encode() not in failed.body
    (letter,) = await rows(database, DeadLetter)
    assert (letter.reason, letter.order_id, letter.body) == ("UNSTORABLE", "bad-1", copy.body)
    assert letter.attempts == 2
    assert len(await rows(database, Order)) == 20


async def returned(app: Any) -> bool:
    return await counted(app, "returned") == 1


@pytest.fixture
def small_packets(database_server: AnyDatabase) -> Iterator[None]:
    """Of connections that are opened from now on."""
    if isinstance(database_server, GivenDatabase):
        pytest.skip("the database server is not ours to configure")
    usual = database_server.execute("SELECT @@GLOBAL.max_allowed_packet").strip()
    database_server.execute(f"SET GLOBAL max_allowed_packet = {PACKET_BYTES}")
    yield
    database_server.execute(f"SET GLOBAL max_allowed_packet = {usual}")


@pytest.mark.parametrize("valid", [True, False])
async def test_a_body_that_fits_no_packet_is_recorded_without_it_and_passed_on_as_it_is(
    small_packets: None, settings: Settings, database: Database, wire: Wire, valid: bool
) -> None:
    many = [{"sku": "x" * 100, "quantity": 1, "unitPrice": "1"}] * 1500
    body = order_created_json(items=many) if valid else b"no JSON" + b"x" * PACKET_BYTES
    reason = "UNSTORABLE" if valid else "INVALID_JSON"
    async with running(settings):
        await wire.listen(DLQ, FAILED)
        await wire.send(body, headers={"note": "kept"})
        (copy,) = await wire.hear(DLQ, 1)
        await wire.hear(FAILED, 1)
        await send(wire, range(3))
        await eventually(lambda: all_published(database, 1 + 3))
    assert copy.body == body
    assert (copy.headers["x-failure-reason"], copy.headers["note"]) == (reason, "kept")
    (letter,) = await rows(database, DeadLetter)
    assert (letter.reason, letter.body, letter.headers) == (reason, b"", {})
    assert letter.dead_letter_id == copy.message_id
    assert len(await rows(database, Order)) == 3


async def test_a_message_whose_sessions_are_killed_again_and_again_is_not_to_blame(
    settings: Settings,
    database: Database,
    database_server: AnyDatabase,
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More often in a row than a batch is tried before its entries are tried alone."""
    killed = 0

    async def under_fire(connection: Any, batch: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal killed
        plan = await plan_batch(connection, batch, *arguments, **options)
        if killed < KILLED_SESSIONS and any(b"o-1" in e.subject.delivery.body for e in batch):
            killed += 1
            session = await connection.scalar(text("SELECT CONNECTION_ID()"))
            await asyncio.to_thread(database_server.execute, f"KILL {session}")
        return plan

    monkeypatch.setattr(service.consumer.batcher, "plan_batch", under_fire)
    monkeypatch.setattr(subscriber, "FIRST_PAUSE_SECONDS", 0.0)
    async with running(settings):
        await send(wire, range(3))
        await eventually(lambda: all_published(database, 3))
    assert killed == KILLED_SESSIONS
    assert await rows(database, DeadLetter) == []
    assert len(await rows(database, Order)) == 3


@pytest.mark.parametrize("number", [1045, 2003, 2026])
async def test_a_message_whose_connections_fail_again_and_again_is_not_to_blame(
    settings: Settings,
    database: Database,
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    """While others connect and write: the server is at its limit, or one of several is wrong."""
    connect, failed = db.engine._connect, 0
    failing = False

    async def fails_often(*arguments: Any, **options: Any) -> Any:
        nonlocal failed
        if failing and failed < FAILED_CONNECTIONS:
            failed += 1
            raise pymysql.err.OperationalError(number, "no connection")
        return await connect(*arguments, **options)

    async def writes(_: Database) -> bool:
        return True

    monkeypatch.setattr(db.engine, "_connect", fails_often)
    monkeypatch.setattr(service.consumer.batcher, "takes_writes", writes)
    async with running(settings) as app:
        await app.service.database.dispose()
        failing = True
        await send(wire, range(3))
        await eventually(lambda: all_published(database, 3))
    assert failed == FAILED_CONNECTIONS
    assert await rows(database, DeadLetter) == []


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_a_message_that_is_given_back_for_an_outage_waits_before_it_goes_back(
    settings: Settings,
    database: Database,
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(subscriber, "GIVE_BACK_SECONDS", 3600.0)
    arguments: Any = {"x-queue-type": kind}
    await wire.channel.declare_queue(INCOMING, durable=True, arguments=arguments)
    ending = settings.model_copy(update={"shutdown_timeout_seconds": 2.0})
    given_back = 0
    async with running(ending) as app:
        submit = app.service.intake.submit

        async def away(subject: Any) -> Any:
            nonlocal given_back
            if b"bad-1" in subject.delivery.body:
                given_back += 1
                raise DatabaseAwayError("the database is away")
            return await submit(subject)

        monkeypatch.setattr(app.service.intake, "submit", away)
        await wire.send(refused_order())
        for number in range(20):
            await wire.send(numbered(number))
            await eventually(lambda count=number + 1: stored(database, count))
        assert given_back == 1
    await eventually(lambda: waits(wire))


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_a_message_that_meets_a_defect_waits_before_it_goes_back_to_its_queue(
    settings: Settings,
    database: Database,
    wire: Wire,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: str,
) -> None:
    """The pause is an hour here: given back at full speed, it would have failed many times."""
    monkeypatch.setattr(subscriber, "FIRST_PAUSE_SECONDS", 3600.0)
    monkeypatch.setattr(subscriber, "LONGEST_PAUSE_SECONDS", 3600.0)

    async def defective(connection: Any, batch: Any, *arguments: Any, **options: Any) -> Any:
        if any(b"bad-1" in entry.subject.delivery.body for entry in batch):
            raise ArithmeticError("a defect")
        return await plan_batch(connection, batch, *arguments, **options)

    monkeypatch.setattr(service.consumer.batcher, "plan_batch", defective)
    arguments: Any = {"x-queue-type": kind}
    await wire.channel.declare_queue(INCOMING, durable=True, arguments=arguments)
    ending = settings.model_copy(update={"shutdown_timeout_seconds": 2.0})
    async with running(ending):
        await wire.send(refused_order())
        for number in range(20):
            await wire.send(numbered(number))
            await eventually(lambda count=number + 1: stored(database, count))
        assert len(logged(caplog, Action.MESSAGE_FAILED)) == 1
    assert await rows(database, DeadLetter) == []
    await eventually(lambda: waits(wire))


async def waits(wire: Wire) -> bool:
    return await wire.depth(INCOMING) == 1


@pytest.mark.parametrize(
    ("headers", "redelivered", "least", "most"),
    [
        ({}, False, 0.25, 0.5),
        ({"x-delivery-count": 1}, True, 0.5, 1.0),
        ({"x-delivery-count": 19}, True, 7.5, 15.0),
        ({}, True, 7.5, 15.0),
    ],
)
def test_the_pause_grows_with_each_delivery(
    headers: dict[str, Any], redelivered: bool, least: float, most: float
) -> None:
    class Raw:
        def __init__(self) -> None:
            self.headers, self.redelivered = headers, redelivered

    assert least <= subscriber.pause_before(Raw()).total_seconds() <= most
