"""The service with the least rights: it needs all of them, and no other.

At the broker it may read the incoming queue and write to the exchange; in the database it may do
with each table what it does with it. Topology and schema are made by others beforehand.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from aiormq.exceptions import ChannelAccessRefused
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db import schema
from db.engine import Database
from db.failures import error_number
from db.models import DeadLetter, Order, OutboxEvent
from service.app import ServiceApp, create_app
from service.config.settings import Settings
from service.database import check_schema, migrate, open_database
from service.doctor import Level, check_all
from service.driver_errors import explain_database
from service.observability import Action
from service.rabbitmq.declaration import ensure
from service.rabbitmq.topology import Topology
from tests.factories import order_created_json
from tests.harness import Wire, eventually, logged, rows, settings_for
from tests.integration.steps import DLQ, FAILED, INCOMING, PROCESSED, found, send
from tests.least_rights import BROKER_RIGHTS, LeastRights, Users, table_rights
from tests.patience import PATIENCE_SECONDS
from tests.processes import service_process
from tests.servers import AnyDatabase, AnyRabbit, DatabaseServer, RabbitServer

WAITING = ("database-waiting", "intake-retrying", "broker-waiting", "relay-waiting", "purge-failed")
DENIED = frozenset({1044, 1045, 1142, 1143, 1227})
LARGE = b"[" + b" " * (1024 * 1024) + b"]"


@pytest.fixture(autouse=True)
def _all_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="orders")


@pytest.fixture(scope="module")
def users(database_server: AnyDatabase, rabbit_server: AnyRabbit) -> Iterator[Users]:
    if not isinstance(database_server, DatabaseServer):
        pytest.skip("the database server is not ours to make users in")
    if not isinstance(rabbit_server, RabbitServer):
        pytest.skip("the broker is not ours to make users in")
    made = Users.create(database_server, rabbit_server)
    yield made
    made.drop()


@pytest.fixture
async def least(users: Users, settings: Settings) -> LeastRights:
    """The schema by its own user, the topology by an administrator, then the service's rights."""
    least = LeastRights(
        users, str(settings.database.database), settings.broker_name.partition("/")[2]
    )
    least.grant_migrations()
    owner = open_database(settings_for(database_url=least.migrations_url()))
    await migrate(owner)
    await owner.dispose()
    least.grant_tables()
    async with await aio_pika.connect(settings.broker) as connection:
        assert await ensure(Topology.of(least.settings(delivery_limit=3)), connection) == []
    least.permit()
    return least


@pytest.fixture
async def store(least: LeastRights, settings: Settings) -> AsyncIterator[Database]:
    """The test's own way into the database that the least rights are for."""
    assert least.database_name == settings.database.database
    store = open_database(settings)
    yield store
    await store.dispose()


async def taken(wire: Wire, queue: str, count: int) -> list[AbstractIncomingMessage]:
    """So many messages, taken off a queue."""
    there = await wire.channel.get_queue(queue, ensure=False)
    return [await there.get(no_ack=True) for _ in range(count)]


async def moved_back(store: Database, count: int) -> bool:
    """Whether so many dead letters were moved back, and refused again."""
    return [each.attempts for each in await rows(store, DeadLetter)] == count * [2]


# It needs no other


async def test_with_the_least_rights_every_message_ends_well_and_a_restart_changes_nothing(
    least: LeastRights, store: Database, mq_url: str
) -> None:
    purging = least.settings(outbox_retention_hours=0, purge_interval_seconds=1)
    with service_process(purging) as service:
        service.wait_for_status("/health/ready", 200)
        async with Wire.connected(mq_url) as wire:
            await send(wire, [0, 0, 1])
            await wire.send(order_created_json(orderId="another", idempotencyKey="k-0"))
            await wire.send(b"{")
            await wire.send(LARGE)
            await eventually(lambda: ended(store, wire, orders=2, dead_letters=3))
            assert await reasons(store) == [
                *("IDEMPOTENCY_CONFLICT", "INVALID_JSON", "PAYLOAD_TOO_LARGE"),
            ]

        await asyncio.to_thread(least.users.rabbit.settle)
        await asyncio.to_thread(least.users.rabbit.restart)
        service.wait_for_status("/health/ready", 200)
        async with Wire.connected(mq_url) as wire:
            await send(wire, [1, 2])
            await wire.send(b"}")
            await eventually(lambda: ended(store, wire, orders=3, dead_letters=4))
            for copy in await taken(wire, DLQ, 4):
                await wire.send(copy.body, headers=copy.headers)
            await eventually(lambda: moved_back(store, 4))
        await eventually(lambda: purged(store))
        service.terminate()
        service.wait()
        assert service.told("message-failed") == []
        assert service.told("task-failed") == []


async def test_check_finds_nothing_wrong_with_the_least_rights(least: LeastRights) -> None:
    findings = await check_all(least.settings())

    assert [each for each in findings if each.level is Level.WRONG] == []
    (rights,) = (each for each in findings if each.name == "rights")
    assert rights.level is Level.OK


# It needs all of them


READS_THE_VERSION = ("SELECT", schema.VERSION_TABLE)


@pytest.mark.parametrize(
    ("verb", "table"), [right for right in table_rights() if right != READS_THE_VERSION]
)
async def test_a_right_on_a_table_that_is_missing_is_waited_for_and_nothing_is_lost(
    least: LeastRights,
    store: Database,
    mq_url: str,
    caplog: pytest.LogCaptureFixture,
    verb: str,
    table: str,
) -> None:
    settings = least.settings(
        outbox_retention_hours=0, purge_interval_seconds=1, outage_hold_seconds=1, delivery_limit=3
    )
    least.revoke_table(verb, table)
    async with started(settings), Wire.connected(mq_url) as wire:
        await wire.send(b"{")
        await send(wire, range(5))
        why = await eventually(lambda: complaints(caplog, 4))
        assert {each.startswith("the user has no right to ") for each in why} == {True}

        await asyncio.to_thread(least.grant_tables)
        await eventually(lambda: ended(store, wire, orders=5, dead_letters=1))
        await eventually(lambda: purged(store))


async def test_without_a_right_to_the_version_the_tables_tell_it_as_long_as_they_can(
    least: LeastRights, store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert READS_THE_VERSION in table_rights()
    least.revoke_table(*READS_THE_VERSION)  # as it was before there was this table
    service = open_database(least.settings())
    await check_schema(service)

    monkeypatch.setattr(schema, "needed_version", lambda: "one that was added later")
    with pytest.raises(DBAPIError) as refused:
        await check_schema(service)
    await service.dispose()

    assert explain_database(refused.value) == (
        f"the user has no right to SELECT on {schema.VERSION_TABLE}"
    )


async def test_a_right_to_read_that_is_taken_away_is_the_fault_of_no_message(
    least: LeastRights, store: Database, mq_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    least.revoke_table("SELECT", "orders")
    async with started(least.settings()), Wire.connected(mq_url) as wire:
        await send(wire, [0])
        await eventually(lambda: complaints(caplog, 4))
        assert logged(caplog, Action.MESSAGE_FAILED) == [], "each counts as a delivery that failed"

        await asyncio.to_thread(least.grant_tables)
        await eventually(lambda: ended(store, wire, orders=1, dead_letters=0))


@pytest.mark.parametrize("missing", ["read", "write"])
async def test_a_permission_that_is_missing_at_the_broker_is_waited_for_and_nothing_is_lost(
    least: LeastRights,
    store: Database,
    mq_url: str,
    caplog: pytest.LogCaptureFixture,
    missing: str,
) -> None:
    least.permit(**{missing: "^$"})
    subject = {"read": f"queue '{INCOMING}'", "write": "exchange 'order_events'"}[missing]
    async with started(least.settings()), Wire.connected(mq_url) as wire:
        await wire.send(b"{")
        await send(wire, range(5))
        for why in await eventually(lambda: complaints(caplog, 3)):
            assert "ACCESS_REFUSED" in why
            assert subject in why

        await asyncio.to_thread(least.permit)
        await eventually(lambda: ended(store, wire, orders=5, dead_letters=1))
        assert {event.attempts for event in await rows(store, OutboxEvent)} == {0}


@pytest.mark.parametrize(("verb", "table"), [("INSERT", "outbox"), ("SELECT", "orders")])
async def test_a_right_that_is_missing_is_named_in_the_log(
    least: LeastRights, mq_url: str, caplog: pytest.LogCaptureFixture, verb: str, table: str
) -> None:
    least.revoke_table(verb, table)
    async with started(least.settings()), Wire.connected(mq_url) as wire:
        await send(wire, [0])
        (why, *_) = await eventually(lambda: complaints(caplog, 1))

    assert verb in why
    assert table in why


async def test_queues_that_nobody_made_are_named_and_waited_for(
    least: LeastRights, store: Database, mq_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Wire.connected(mq_url) as wire:
        await wire.channel.queue_delete(INCOMING)
    async with started(least.settings()):
        for why in await eventually(lambda: complaints(caplog, 2)):
            assert INCOMING in why
        async with await aio_pika.connect(mq_url) as connection:
            await ensure(Topology.of(least.settings()), connection)
        async with Wire.connected(mq_url) as wire:
            await send(wire, [0])
            await eventually(lambda: ended(store, wire, orders=1, dead_letters=0))


# What they keep out, should somebody get hold of them


Attempt = Callable[[aio_pika.abc.AbstractChannel], Awaitable[Any]]


async def _read(channel: aio_pika.abc.AbstractChannel, name: str) -> None:
    queue = await channel.get_queue(name, ensure=False)
    await queue.get(fail=False, timeout=PATIENCE_SECONDS)


async def _publish(channel: aio_pika.abc.AbstractChannel, exchange: str, key: str) -> None:
    there = await channel.get_exchange(exchange, ensure=False)
    await there.publish(aio_pika.Message(b"forged"), key)


ATTEMPTS: dict[str, Attempt] = {
    "read the dead letters": lambda channel: _read(channel, DLQ),
    "read the events": lambda channel: _read(channel, PROCESSED),
    "publish to a queue": lambda channel: channel.default_exchange.publish(
        aio_pika.Message(b"forged"), DLQ
    ),
    "publish an order": lambda channel: _publish(channel, "order_events", "order.created"),
    "make a queue": lambda channel: channel.declare_queue("mine", durable=True),
    "delete a queue": lambda channel: channel.queue_delete(DLQ),
    "purge a queue": lambda channel: _purge(channel, DLQ),
    "delete the exchange": lambda channel: channel.exchange_delete("order_events"),
}


async def _purge(channel: aio_pika.abc.AbstractChannel, name: str) -> None:
    await (await channel.get_queue(name, ensure=False)).purge()


STATEMENTS = (
    "UPDATE orders SET total_amount = 1",
    "DELETE FROM orders",
    "UPDATE dead_letters SET body = ''",
    "DELETE FROM dead_letters",
    "UPDATE order_service_version SET version_num = '0'",
    "CREATE TABLE mine (id INT)",
    "ALTER TABLE orders ADD COLUMN mine INT",
    "DROP TABLE orders",
    "TRUNCATE TABLE outbox",
    "CREATE DATABASE mine",
    "SELECT * FROM mysql.user",
    "SELECT 1 INTO OUTFILE '/tmp/mine'",
)


async def test_the_services_user_at_the_broker_can_do_nothing_else(least: LeastRights) -> None:
    allowed = []
    async with await aio_pika.connect(least.settings().broker) as connection:
        for attempt, act in ATTEMPTS.items():
            try:
                await act(await connection.channel())
            except ChannelAccessRefused:
                continue
            allowed.append(attempt)

    assert allowed == []


async def test_the_services_user_in_the_database_can_do_nothing_else(least: LeastRights) -> None:
    answers: dict[str, int | None] = dict.fromkeys(STATEMENTS)
    database = open_database(least.settings())
    for statement in STATEMENTS:
        try:
            async with database.reading() as connection:
                await connection.execute(text(statement))
        except DBAPIError as error:
            answers[statement] = error_number(error)
    await database.dispose()

    assert {each: code for each, code in answers.items() if code not in DENIED} == {}


def test_the_brokers_rights_are_exactly_one_queue_to_read_and_one_exchange_to_write() -> None:
    (permissions,) = BROKER_RIGHTS["permissions"]

    assert permissions["configure"] == "^$"
    assert permissions["read"] == f"^{INCOMING}$"
    assert permissions["write"] == "^order_events$"


# Steps


@asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[ServiceApp]:
    """The service in this process, whether it gets to consume or not."""
    app = create_app(settings)
    async with app.start_lifespan_context():
        yield app


async def complaints(caplog: pytest.LogCaptureFixture, count: int) -> list[str]:
    """Why the service waits, as often as it said so; nothing as long as that is too seldom."""
    said = [fields["why"] for action in WAITING for fields in logged(caplog, Action(action))]
    return said if len(said) >= count else []


async def ended(store: Database, wire: Wire, *, orders: int, dead_letters: int) -> bool:
    """Each message is an order or a dead letter, everything is published, and nothing waits.

    Queues may hold an event twice; by its id it is the same.
    """
    if len(await found(store, Order) or ()) != orders:
        return False
    if len(await found(store, DeadLetter) or ()) != dead_letters:
        return False
    if any(event.published_at is None for event in await found(store, OutboxEvent) or ()):
        return False
    depths = [await wire.depth(queue) for queue in (INCOMING, PROCESSED, FAILED, DLQ)]
    return depths == [0, orders, dead_letters, dead_letters]


async def reasons(store: Database) -> list[str]:
    return sorted(each.reason for each in await rows(store, DeadLetter))


async def purged(store: Database) -> bool:
    return not await rows(store, OutboxEvent)
