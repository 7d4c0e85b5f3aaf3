"""Servers that die, freeze and come back, and processes that die: nothing lost, nothing twice.

The servers are the run's own and belong to one test at a time; the fixtures of the database and of
the vhost revive what a test left dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from typing import Any

import httpx
import pytest
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError
from sqlalchemy import insert, text
from sqlalchemy.exc import OperationalError

from db.engine import Database
from db.models import Order, OutboxEvent
from service.app import ServiceApp
from service.config.settings import Settings
from service.outbox.envelope import new_id
from service.rabbitmq import declaration
from service.rabbitmq.topology import Topology
from tests.factories import order_created_json
from tests.harness import Wire, eventually, rows, running
from tests.integration.steps import (
    INCOMING,
    PROCESSED,
    all_is_done,
    all_published,
    consumed_by,
    consumers,
    counted,
    insert_order,
    is_stored,
    keep_sending,
    lock_waits,
    messages_in,
    numbered,
    send,
    send_until_it_breaks,
    stored,
)
from tests.patience import PATIENCE_SECONDS
from tests.processes import service_process
from tests.servers import (
    AnyDatabase,
    AnyRabbit,
    DatabaseServer,
    GivenDatabase,
    GivenRabbit,
    RabbitServer,
)


@pytest.fixture(autouse=True)
def _all_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="orders")


@pytest.fixture
def database_to_break(database_server: AnyDatabase) -> DatabaseServer:
    if isinstance(database_server, GivenDatabase):
        pytest.skip("the database server is not ours to break")
    return database_server


@pytest.fixture
def broker_to_break(rabbit_server: AnyRabbit) -> RabbitServer:
    if isinstance(rabbit_server, GivenRabbit):
        pytest.skip("the broker is not ours to break")
    return rabbit_server


# A database that goes away


async def test_a_killed_database_loses_nothing_and_the_service_resumes_by_itself(
    settings: Settings,
    database: Database,
    mq_url: str,
    database_to_break: DatabaseServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(settings) as app:
        killed = asyncio.Event()
        async with Wire.connected(mq_url) as wire, asyncio.TaskGroup() as flow:
            sending = flow.create_task(keep_sending(wire, killed))
            await eventually(lambda: stored(database, 10))
            await asyncio.to_thread(database_to_break.kill)
            killed.set()
        sent = sending.result()
        await eventually(lambda: health_says(app, 503, db="disconnected", mq="connected"))
        await eventually(lambda: logged(caplog, "intake-retrying"))

        done_before = await counted(app, "accepted")
        await asyncio.to_thread(database_to_break.start)
        await eventually(lambda: processed_more_than(app, done_before))
        await eventually(lambda: health_says(app, 200, db="connected", mq="connected"))
        await all_is_done(database, mq_url, range(sent))

    for action in ("intake-retrying", "relay-waiting"):
        for fields in told(caplog, action):
            assert fields["why"]
            assert fields["retry_in_seconds"] <= 3
    assert told(caplog, "intake-resumed")
    assert tracebacks(caplog) == []


async def test_a_frozen_database_is_given_up_in_time_and_used_again_when_it_thaws(
    settings: Settings,
    database: Database,
    mq_url: str,
    database_to_break: DatabaseServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    quick = settings.model_copy(update={"db_timeout_seconds": 2.0, "db_connect_timeout_seconds": 2})
    async with running(quick) as app, Wire.connected(mq_url) as wire:
        await send(wire, range(50))
        await eventually(lambda: stored(database, 50))
        await asyncio.to_thread(database_to_break.freeze)
        await send(wire, range(50, 100))
        # Two transactions that reach their deadline, and the delay between them.
        await eventually(lambda: logged(caplog, "intake-retrying", times=2))
        await eventually(lambda: health_says(app, 503, db="disconnected", mq="connected"))

        await asyncio.to_thread(database_to_break.thaw)
        await eventually(lambda: stored(database, 51))
        await eventually(lambda: health_says(app, 200, db="connected", mq="connected"))
        await all_is_done(database, mq_url, range(100))

        async def all_connections_are_back() -> bool:
            return checked_out(app.service.database) == 0

        await eventually(all_connections_are_back)


@pytest.mark.parametrize("use", ["reading", "transaction"])
async def test_giving_a_connection_back_to_a_frozen_database_has_a_deadline_too(
    settings: Settings, database: Database, database_to_break: DatabaseServer, use: str
) -> None:
    own = Database(settings.database, pool_size=1, timeout_seconds=1)

    async def freeze_at_the_end(*, failing: bool) -> None:
        async with getattr(own, use)() as connection:
            await connection.execute(text("SELECT 1"))
            database_to_break.freeze()
            if failing:
                raise ZeroDivisionError

    try:
        for failing in (False, True):
            ending = asyncio.create_task(freeze_at_the_end(failing=failing))
            done, _ = await asyncio.wait([ending], timeout=PATIENCE_SECONDS)
            database_to_break.thaw()
            assert done, "it waits for as long as the server is frozen"
            with pytest.raises((TimeoutError, ZeroDivisionError, OperationalError)):
                await ending
        own.timeout_seconds = PATIENCE_SECONDS
        async with own.reading() as connection:  # the only connection of the pool is not lost
            assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    finally:
        database_to_break.thaw()
        await own.dispose()


async def test_a_long_outage_of_the_database_leaves_the_messages_at_the_broker(
    settings: Settings,
    database: Database,
    mq_url: str,
    database_to_break: DatabaseServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    quick = settings.model_copy(update={"outage_hold_seconds": 1.0, "delivery_limit": 3})
    async with running(quick) as app, Wire.connected(mq_url) as wire:
        await send(wire, range(20))
        await all_is_done(database, mq_url, range(20))
        await asyncio.to_thread(database_to_break.kill)
        await send(wire, range(20, 60))

        async def given_back() -> bool:
            return await wire.depth(INCOMING) == 40

        await eventually(given_back)
        (stopped,) = told(caplog, "consuming-stopped")
        assert stopped["why"] == "the database is away"
        # The longer it lasts, the more attempts to reach the database, and no more deliveries.
        await eventually(lambda: logged(caplog, "database-waiting", times=4))
        counts = await delivery_counts(wire)
        assert len(counts) == 40
        assert max(counts) <= 1, "an outage costs a message one delivery, however long it lasts"
        # The broker is well, and health does not blame it for a consumer that waits.
        await eventually(lambda: health_says(app, 503, db="disconnected", mq="connected"))

        await asyncio.to_thread(database_to_break.start)
        await eventually(lambda: stored(database, 21))
        await eventually(lambda: health_says(app, 200, db="connected", mq="connected"))
        await all_is_done(database, mq_url, range(60))


# A broker that goes away


@pytest.mark.parametrize("table", ["orders", "outbox"])
async def test_a_table_that_cannot_be_written_is_an_outage_and_costs_no_message(
    settings: Settings,
    database: Database,
    mq_url: str,
    caplog: pytest.LogCaptureFixture,
    table: str,
) -> None:
    impatient = settings.model_copy(update={"outage_hold_seconds": 1.0, "delivery_limit": 3})
    async with running(impatient) as app, Wire.connected(mq_url) as wire:
        async with database.engine.begin() as connection:
            await connection.execute(text(f"RENAME TABLE {table} TO away"))
        await send(wire, range(10))
        await eventually(lambda: logged(caplog, "consuming-stopped"))
        await eventually(lambda: logged(caplog, "database-waiting", times=4))
        assert await counted(app, "dead_lettered") == 0

        async with database.engine.begin() as connection:
            await connection.execute(text(f"RENAME TABLE away TO {table}"))
        await all_is_done(database, mq_url, range(10))


async def test_a_killed_broker_loses_nothing_and_consumer_and_relay_resume_by_themselves(
    settings: Settings,
    database: Database,
    mq_url: str,
    broker_to_break: RabbitServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(settings) as app:
        confirmed: list[int] = []
        await asyncio.to_thread(broker_to_break.settle)
        async with Wire.connected(mq_url) as wire:
            flow = asyncio.create_task(send_until_it_breaks(wire, confirmed))
            await eventually(lambda: stored(database, 10))
            await asyncio.to_thread(broker_to_break.kill)
            sent = await flow
        await eventually(lambda: health_says(app, 503, db="connected", mq="disconnected"))
        await eventually(lambda: logged(caplog, "broker-waiting"))

        await asyncio.to_thread(broker_to_break.start)
        async with Wire.connected(mq_url) as wire:
            await send(wire, range(sent, sent + 50), confirmed)
            await eventually(lambda: is_stored(database, f"o-{sent + 49}"))
            assert await consumers(wire) == 1
        await eventually(lambda: health_says(app, 200, db="connected", mq="connected"))
        await all_is_done(database, mq_url, confirmed, unconfirmed=range(sent + 50))

    for action in ("broker-waiting", "relay-waiting"):
        for fields in told(caplog, action):
            assert fields["why"]
            assert fields["retry_in_seconds"] <= 5
    assert tracebacks(caplog) == []


async def test_events_that_were_accepted_while_the_broker_is_away_are_published_when_it_is_back(
    settings: Settings,
    database: Database,
    mq_url: str,
    broker_to_break: RabbitServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(settings):
        async with Wire.connected(mq_url) as wire:
            await send(wire, [0])
            await all_is_done(database, mq_url, [0])
        await asyncio.to_thread(broker_to_break.settle)
        await asyncio.to_thread(broker_to_break.kill)
        await accept_another_event(database)
        await eventually(lambda: logged(caplog, "relay-waiting", times=3))
        await asyncio.to_thread(broker_to_break.start)
        await eventually(lambda: all_published(database, 2))

    assert [event.attempts for event in await rows(database, OutboxEvent)] == [0, 0]


async def test_a_frozen_broker_is_noticed_by_its_missing_heartbeats_and_used_again(
    settings: Settings,
    database: Database,
    mq_url: str,
    broker_to_break: RabbitServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    quick = settings.model_copy(
        update={
            "mq_heartbeat_seconds": 2,
            "publish_timeout_seconds": 2.0,
            "mq_connect_timeout_seconds": 2.0,
        }
    )
    async with running(quick) as app, Wire.connected(mq_url) as wire:
        await send(wire, range(20))
        await all_is_done(database, mq_url, range(20))
        await asyncio.to_thread(broker_to_break.freeze)
        await eventually(lambda: health_says(app, 503, db="connected", mq="disconnected"))
        await eventually(lambda: logged(caplog, "consuming-stopped"))
        await eventually(lambda: logged(caplog, "broker-waiting"))

        await asyncio.to_thread(broker_to_break.thaw)
        await send(wire, range(20, 40))
        await eventually(lambda: stored(database, 21))
        await eventually(lambda: health_says(app, 200, db="connected", mq="connected"))
        await all_is_done(database, mq_url, range(40))
        await eventually(lambda: consumed_by(wire, 1))
    assert told(caplog, "broker-waiting")[0]["why"] == "it did not answer in time"


# What somebody deletes at the broker


async def test_an_incoming_queue_that_is_deleted_is_declared_anew_and_consumed_again(
    settings: Settings, database: Database, mq_url: str
) -> None:
    async with running(settings), Wire.connected(mq_url) as wire:
        await send(wire, range(5))
        await all_is_done(database, mq_url, range(5))
        await wire.channel.queue_delete(INCOMING)

        async def there_again() -> bool:
            with contextlib.suppress(DeliveryError):
                await wire.send(numbered(5))
                return True
            return False

        await eventually(there_again)
        await all_is_done(database, mq_url, range(6))
        assert await consumers(wire) == 1


@pytest.mark.parametrize("harm", ["queue deleted", "unbound"])
async def test_an_outgoing_queue_that_is_lost_comes_back_though_others_still_take_every_event(
    settings: Settings, database: Database, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.rabbitmq.broker.RESTORE_SECONDS", 1.0)
    async with running(settings), Wire.connected(settings.broker) as wire:
        other = await wire.channel.declare_queue("somebody-else", durable=True)
        await other.bind("order_events", routing_key="#")
        if harm == "queue deleted":
            await wire.channel.queue_delete(PROCESSED)
        else:
            there = await wire.channel.get_queue(PROCESSED)
            await there.unbind("order_events", routing_key="order.processed")

        numbers = itertools.count()

        async def arrives_again() -> bool:
            await send(wire, [next(numbers)])
            async with Wire.connected(settings.broker) as looking:
                with contextlib.suppress(ChannelNotFoundEntity):
                    return await looking.depth(PROCESSED) > 0
            return False

        await eventually(arrives_again)


async def test_a_node_that_keeps_the_link_and_answers_nothing_is_left(
    settings: Settings,
    database: Database,
    mq_url: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a node that is cut off from its cluster: heartbeats come, and no answer."""
    monkeypatch.setattr("service.rabbitmq.broker.RESTORE_SECONDS", 0.5)
    monkeypatch.setattr("service.rabbitmq.broker.SILENCE_SECONDS", 0.5)
    cut_off = asyncio.Event()
    restore = declaration.restore

    async def answered(topology: Topology, connection: AbstractConnection) -> bool:
        if cut_off.is_set():
            await asyncio.Event().wait()
        return await restore(topology, connection)

    monkeypatch.setattr(declaration, "restore", answered)
    async with running(settings), Wire.connected(mq_url) as wire:
        cut_off.set()
        await eventually(lambda: logged(caplog, "consuming-stopped"))
        cut_off.clear()
        monkeypatch.setattr("service.rabbitmq.broker.SILENCE_SECONDS", PATIENCE_SECONDS)
        await send(wire, range(3))
        await all_is_done(database, mq_url, range(3))

    (stopped, *_) = told(caplog, "consuming-stopped")
    assert "has not answered" in str(stopped["why"])


@pytest.mark.parametrize("harm", ["queue deleted", "unbound", "exchange deleted"])
async def test_an_event_without_a_way_is_retried_and_arrives_once_the_way_is_mended(
    settings: Settings, database: Database, mq_url: str, harm: str
) -> None:
    async with running(settings), Wire.connected(mq_url) as wire:
        await send(wire, range(3))
        await all_is_done(database, mq_url, range(3))
        match harm:
            case "queue deleted":
                await wire.channel.queue_delete(PROCESSED)
            case "unbound":
                queue = await wire.channel.get_queue(PROCESSED, ensure=False)
                await queue.unbind(settings.events_exchange, "order.processed")
            case "exchange deleted":
                await wire.channel.exchange_delete(settings.events_exchange)
        await send(wire, range(3, 6))
        await eventually(lambda: all_published(database, 6))
        there = await messages_in(wire, PROCESSED)

    events = await rows(database, OutboxEvent)
    late = [event for event in events if event.aggregate_id in {"o-3", "o-4", "o-5"}]
    assert {event.event_id for event in late} <= there
    assert max(event.attempts for event in late) <= 2


# Both, and each other


async def test_both_servers_restarted_at_once_lose_nothing(
    settings: Settings,
    database: Database,
    mq_url: str,
    database_to_break: DatabaseServer,
    broker_to_break: RabbitServer,
) -> None:
    async with running(settings) as app:
        confirmed: list[int] = []
        await asyncio.to_thread(broker_to_break.settle)
        async with Wire.connected(mq_url) as wire:
            flow = asyncio.create_task(send_until_it_breaks(wire, confirmed))
            await eventually(lambda: stored(database, 10))
            await asyncio.gather(
                asyncio.to_thread(broker_to_break.kill), asyncio.to_thread(database_to_break.kill)
            )
            sent = await flow
        await eventually(lambda: health_says(app, 503, db="disconnected", mq="disconnected"))

        await asyncio.gather(
            asyncio.to_thread(broker_to_break.start), asyncio.to_thread(database_to_break.start)
        )
        async with Wire.connected(mq_url) as wire:
            await send(wire, [sent], confirmed)
        await eventually(lambda: is_stored(database, f"o-{sent}"))
        await all_is_done(database, mq_url, confirmed, unconfirmed=range(sent + 1))


async def test_a_batch_that_waits_too_long_for_a_lock_is_done_again_and_ends_right(
    settings: Settings,
    database: Database,
    mq_url: str,
    database_server: AnyDatabase,
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = database_server.execute("SELECT @@GLOBAL.innodb_lock_wait_timeout").strip()
    database_server.execute("SET GLOBAL innodb_lock_wait_timeout = 1")
    try:
        async with running(settings) as app, Wire.connected(mq_url) as wire:
            async with database.engine.connect() as other:
                # Not committed: whoever inserts the same key has to wait.
                await insert_order(other, "elsewhere", key="k-3")
                await send(wire, range(10))
                await eventually(lambda: logged(caplog, "intake-retrying"))
                assert not await is_stored(database, "o-3")
                await other.rollback()
            await all_is_done(database, mq_url, range(10))
            assert await counted(app, "accepted") == 10
    finally:
        database_server.execute(f"SET GLOBAL innodb_lock_wait_timeout = {before}")
    assert {fields["why"] for fields in told(caplog, "intake-retrying")} == {"race"}


async def test_a_batch_that_is_a_deadlocks_victim_is_done_again_and_ends_right(
    settings: Settings,
    database: Database,
    mq_url: str,
    database_server: AnyDatabase,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(settings) as app, Wire.connected(mq_url) as wire:
        async with database.engine.connect() as gate, database.engine.connect() as other:
            # While its first batch waits at the gate, the second one gathers: o-0 to o-9, whole.
            await insert_order(gate, "gate", key="gate")
            # The server rolls back who has written less: let that not be the other.
            for number in range(50):
                await insert_order(other, f"other-{number}", key=f"other-{number}")
            await insert_order(other, "o-9", key="other")
            await wire.send(order_created_json(orderId="gate", idempotencyKey="first"))
            await eventually(lambda: lock_waits(database_server))
            await send(wire, range(10))

            async def gathered() -> bool:
                return len(app.service.intake._waiting) == 10

            await eventually(gathered)
            await gate.rollback()
            # The batch has o-0 and wants o-9; the other has o-9 and wants o-0.
            await eventually(lambda: is_stored(database, "gate"))
            await eventually(lambda: lock_waits(database_server))
            await insert_order(other, "o-0", key="other too")
            await other.rollback()

        await eventually(lambda: all_published(database, 11))
        assert await counted(app, "accepted") == 11
    assert {fields["why"] for fields in told(caplog, "intake-retrying")} == {"race"}


# A process that goes away


async def test_a_service_killed_under_load_is_taken_over_by_another_without_loss_or_repetition(
    settings: Settings, database: Database, mq_url: str, wire: Wire
) -> None:
    # A dead process cannot give back what its relay had claimed: that waits for its lease to end.
    quick = settings.model_copy(update={"relay_lease_seconds": 5, "publish_timeout_seconds": 4})
    with service_process(quick) as first:
        await asyncio.to_thread(first.wait_for_status, "/health/ready", 200)
        killed = asyncio.Event()
        async with asyncio.TaskGroup() as flow:
            sending = flow.create_task(keep_sending(wire, killed))
            await eventually(lambda: stored(database, 50))
            first.kill()
            killed.set()
    sent = sending.result()
    assert len(await rows(database, Order)) < sent, "it was not killed under load"

    async with running(quick):
        await all_is_done(database, mq_url, range(sent))


# What the tests have in common


async def delivery_counts(wire: Wire) -> list[int]:
    """How often each message of the incoming queue was delivered before; they stay there."""
    channel = await wire.connection.channel()
    async with channel:
        there = await channel.get_queue(INCOMING, ensure=False)
        counts = []
        while (message := await there.get(fail=False, timeout=PATIENCE_SECONDS)) is not None:
            counts.append(int(message.headers.get("x-delivery-count") or 0))  # type: ignore[arg-type]
    return counts


async def processed_more_than(app: ServiceApp, count: int) -> bool:
    return await counted(app, "accepted") > count


async def health_says(app: ServiceApp, status: int, **parts: str) -> bool:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        answer = await client.get("/health")
    body = answer.json()
    expected = {"status": "OK" if status == 200 else "DEGRADED", **parts}
    return answer.status_code == status and expected.items() <= body.items()


def told(caplog: pytest.LogCaptureFixture, action: str) -> list[dict[str, Any]]:
    """The fields of each line that the service has logged for this action."""
    return [
        record.__dict__["fields"]
        for record in caplog.records
        if record.name == "orders" and record.getMessage() == action
    ]


async def logged(caplog: pytest.LogCaptureFixture, action: str, *, times: int = 1) -> bool:
    return len(told(caplog, action)) >= times


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log would show with a traceback; configure_logging silences the clients' own."""
    clients = ("aiormq", "aio_pika")
    shown = [each for each in caplog.records if each.levelno >= logging.INFO and each.exc_info]
    return [each.getMessage() for each in shown if not each.name.startswith(clients)]


def checked_out(database: Database) -> int:
    """How many connections of the pool are in somebody's hands."""
    return int(database.engine.pool.checkedout())  # type: ignore[attr-defined]


async def accept_another_event(database: Database) -> None:
    """A row in the outbox as an order would have put it there, of another aggregate."""
    (event,) = await rows(database, OutboxEvent)
    row = event._asdict() | {"event_id": new_id(), "aggregate_id": "o-1", "published_at": None}
    del row["id"]
    async with database.transaction() as connection:
        await connection.execute(insert(OutboxEvent).values(row))
