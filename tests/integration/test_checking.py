"""`orders check` against real servers: what is right, and each thing that can be wrong."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aio_pika
import pytest
from aiormq.exceptions import ChannelNotFoundEntity
from pydantic import ValidationError

from service import doctor
from service.config.settings import Settings
from service.database import migrate, open_database
from service.doctor import Finding, Level, check_all
from service.rabbitmq.declaration import ensure
from service.rabbitmq.topology import Topology
from tests.harness import settings_for as usual_settings
from tests.patience import PATIENCE_SECONDS
from tests.servers import AnyDatabase, AnyRabbit, DatabaseServer, RabbitServer

pytestmark = pytest.mark.servers

# Nobody listens there: what the tests expect does not hang on what this machine runs besides.
NO_MANAGEMENT = "http://127.0.0.1:1"


def settings_for(**values: Any) -> Settings:
    return usual_settings(**{"mq_management_url": NO_MANAGEMENT, **values})


@pytest.fixture(autouse=True)
def _answers_may_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (doctor.database, doctor.broker, doctor.embedded):
        monkeypatch.setattr(module, "ANSWER_SECONDS", PATIENCE_SECONDS)


@dataclass(frozen=True)
class Found:
    """The findings of one run on one subject."""

    findings: list[Finding]

    def __getitem__(self, name: str) -> Finding:
        [finding] = [each for each in self.findings if each.name == name]
        return finding

    @property
    def not_ok(self) -> dict[str, Level]:
        return {each.name: each.level for each in self.findings if each.level is not Level.OK}


async def look_at(subject: str, settings: Settings) -> Found:
    findings = await check_all(settings)
    return Found([each for each in findings if each.subject == subject])


@pytest.fixture
async def migrated(database_url: str, tmp_path: Path) -> Settings:
    """A database with its tables, and the in-process broker."""
    settings = settings_for(database_url=database_url)
    database = open_database(settings)
    await migrate(database)
    await database.dispose()
    return settings


@pytest.fixture
async def declared(mq_url: str, tmp_path: Path) -> Settings:
    """A vhost with everything the service declares, and no database."""
    settings = settings_for(mq_url=mq_url, sqlite_path=tmp_path / "orders.db")
    async with await aio_pika.connect(mq_url) as connection:
        assert await ensure(Topology.of(settings), connection) == []
    return settings


@pytest.fixture
def own_database(database_server: AnyDatabase) -> DatabaseServer:
    if not isinstance(database_server, DatabaseServer):
        pytest.skip("the database server is not ours to change")
    return database_server


@pytest.fixture
def own_rabbit(rabbit_server: AnyRabbit) -> RabbitServer:
    if not isinstance(rabbit_server, RabbitServer):
        pytest.skip("the broker is not ours to change")
    return rabbit_server


@dataclass(frozen=True)
class Deadline:
    seconds: float
    scope: asyncio.Timeout


@pytest.fixture
def deadlines(monkeypatch: pytest.MonkeyPatch) -> list[Deadline]:
    """Those that were set from here on, in their order."""
    found: list[Deadline] = []
    timeout = asyncio.timeout

    def remembered(seconds: float | None) -> asyncio.Timeout:
        found.append(Deadline(seconds or 0, scope := timeout(seconds)))
        return scope

    monkeypatch.setattr(asyncio, "timeout", remembered)
    return found


def waited_for(deadlines: list[Deadline]) -> float:
    """How many seconds were waited in vain, however late the machine noticed."""
    return sum(each.seconds for each in deadlines if each.scope.expired())


# The database.


async def test_after_migrate_everything_is_right_with_the_database(migrated: Settings) -> None:
    found = await look_at("database", migrated)
    assert found.not_ok == {}
    assert found["rights"].found.endswith("orders, outbox, dead_letters")


async def test_a_database_that_was_never_migrated_says_what_to_run(database_url: str) -> None:
    found = await look_at("database", settings_for(database_url=database_url))
    assert found.not_ok == {"schema version": Level.WRONG}
    assert "orders migrate" in found["schema version"].advice


async def test_a_wrong_database_password_is_a_login_not_a_network_problem(
    database_url: str,
) -> None:
    url = database_url.replace("orders-test-password", "wrong")
    found = await look_at("database", settings_for(database_url=url))
    assert found.not_ok == {"login": Level.WRONG, "the rest": Level.UNKNOWN}
    assert "wrong user or password" in found["login"].found


async def test_a_missing_database_is_named(database_url: str) -> None:
    found = await look_at("database", settings_for(database_url=f"{database_url}_missing"))
    assert found.not_ok == {"database": Level.WRONG, "the rest": Level.UNKNOWN}
    assert "does not exist" in found["database"].found


def test_a_url_without_a_database_is_refused_when_it_is_read(database_url: str) -> None:
    url = database_url.rpartition("/")[0] + "/"
    with pytest.raises(ValidationError, match="DATABASE_URL names no database"):
        settings_for(database_url=url)


async def test_a_closed_database_port_says_that_nobody_listens() -> None:
    url = "mysql+aiomysql://orders:secret@127.0.0.1:1/order_db"
    found = await look_at("database", settings_for(database_url=url))
    assert found.not_ok == {"reachable": Level.WRONG, "the rest": Level.UNKNOWN}
    assert "nobody listens there" in found["reachable"].found


async def test_a_frozen_database_is_given_up_within_its_deadline(
    own_database: DatabaseServer, database_url: str, deadlines: list[Deadline]
) -> None:
    settings = settings_for(database_url=database_url, db_connect_timeout_seconds=1)
    own_database.freeze()
    async with asyncio.timeout(PATIENCE_SECONDS):
        found = await look_at("database", settings)
    assert waited_for(deadlines) < 4
    assert found.not_ok == {"reachable": Level.WRONG, "the rest": Level.UNKNOWN}
    assert "did not answer in time" in found["reachable"].found


@pytest.fixture
def flushing_each_second(own_database: DatabaseServer) -> Iterator[None]:
    own_database.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 2, GLOBAL sync_binlog = 0")
    yield
    own_database.execute("SET GLOBAL innodb_flush_log_at_trx_commit = 1, GLOBAL sync_binlog = 1")


@pytest.mark.usefixtures("flushing_each_second")
async def test_a_database_that_may_lose_commits_is_wrong(migrated: Settings) -> None:
    found = await look_at("database", migrated)
    assert found.not_ok == {"flush at commit": Level.WRONG, "binary log": Level.WRONG}
    assert "already acknowledged" in found["flush at commit"].advice


async def test_rights_that_are_missing_are_named(
    own_database: DatabaseServer, migrated: Settings
) -> None:
    name, reader = migrated.database.database, "orders_reader"
    own_database.execute(
        f"CREATE USER {reader}@'127.0.0.1' IDENTIFIED BY 'reading';"
        f"GRANT SELECT ON {name}.* TO {reader}@'127.0.0.1';"
        f"GRANT INSERT, UPDATE, DELETE ON {name}.orders TO {reader}@'127.0.0.1';"
    )
    try:
        url = migrated.database.set(username=reader, password="reading")
        text = url.render_as_string(hide_password=False)
        found = await look_at("database", settings_for(database_url=text))
    finally:
        own_database.execute(f"DROP USER {reader}@'127.0.0.1'")
    assert found.not_ok == {"rights": Level.WRONG}
    assert "INSERT on outbox" in found["rights"].found
    assert "on orders" not in found["rights"].found


async def test_a_column_that_ignores_case_is_wrong(
    own_database: DatabaseServer, migrated: Settings
) -> None:
    own_database.execute(
        f"ALTER TABLE {migrated.database.database}.orders "
        "MODIFY user_id VARCHAR(255) CHARACTER SET ascii COLLATE ascii_general_ci NOT NULL"
    )
    found = await look_at("database", migrated)
    assert found.not_ok == {"id columns": Level.WRONG}
    assert "orders.user_id: ascii_general_ci" in found["id columns"].found


# The broker.


async def test_with_its_topology_there_everything_is_right_with_the_broker(
    declared: Settings,
) -> None:
    found = await look_at("broker", declared)
    assert found.not_ok == {"bindings": Level.UNKNOWN}
    assert found["queue order_created_queue"].found == "quorum as declared, 0 ready, 0 consuming"
    assert "nobody listens there" in found["bindings"].found


async def test_looking_at_an_empty_vhost_makes_nothing(mq_url: str) -> None:
    found = await look_at("broker", settings_for(mq_url=mq_url))
    assert set(found.not_ok.values()) == {Level.WARNING}
    assert len(found.not_ok) == 5
    async with await aio_pika.connect(mq_url) as connection:
        for queue in ("order_created_queue", "order_dlq"):
            channel = await connection.channel()
            with pytest.raises(ChannelNotFoundEntity):
                await channel.declare_queue(queue, passive=True)


async def test_a_classic_queue_of_somebody_else_is_a_warning_that_says_what_is_lost(
    mq_url: str,
) -> None:
    settings = settings_for(mq_url=mq_url)
    async with await aio_pika.connect(mq_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("order_created_queue", durable=True)
        await channel.default_exchange.publish(aio_pika.Message(b"{}"), "order_created_queue")
        await ensure(Topology.of(settings), connection)
    found = await look_at("broker", settings)
    assert found.not_ok == {
        "queue order_created_queue": Level.WARNING,
        "bindings": Level.UNKNOWN,
    }
    queue = found["queue order_created_queue"]
    assert "inequivalent arg" in queue.found
    assert "1 ready" in queue.found
    assert "not replicated" in queue.advice


async def test_a_queue_that_a_restart_empties_is_wrong(mq_url: str) -> None:
    async with await aio_pika.connect(mq_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("order_dlq", durable=False)
    found = await look_at("broker", settings_for(mq_url=mq_url))
    assert found["queue order_dlq"].level is Level.WRONG


async def test_an_exchange_of_another_type_is_wrong(mq_url: str) -> None:
    async with await aio_pika.connect(mq_url) as connection:
        channel = await connection.channel()
        await channel.declare_exchange("order_events", "fanout", durable=True)
    found = await look_at("broker", settings_for(mq_url=mq_url))
    assert found["exchange order_events"].level is Level.WRONG
    assert "fanout" in found["exchange order_events"].found


async def test_a_queue_that_another_connection_keeps_for_itself_is_wrong(mq_url: str) -> None:
    async with await aio_pika.connect(mq_url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("order_dlq", exclusive=True)
        found = await look_at("broker", settings_for(mq_url=mq_url))
    assert found["queue order_dlq"].level is Level.WRONG
    assert "exclusive" in found["queue order_dlq"].found


async def test_a_wrong_broker_password_is_a_login_not_a_network_problem(mq_url: str) -> None:
    url = mq_url.replace("orders-test-password", "wrong")
    found = await look_at("broker", settings_for(mq_url=url))
    assert found.not_ok == {"login": Level.WRONG, "the rest": Level.UNKNOWN}
    assert "wrong user or password" in found["login"].found


async def test_a_missing_vhost_is_named_after_a_login_that_worked(mq_url: str) -> None:
    found = await look_at("broker", settings_for(mq_url=f"{mq_url}-missing"))
    assert found.not_ok == {"vhost": Level.WRONG, "the rest": Level.UNKNOWN}
    assert "does not exist" in found["vhost"].found


async def test_a_vhost_without_permission_is_named(own_rabbit: RabbitServer, mq_url: str) -> None:
    vhost = mq_url.rpartition("/")[2]
    own_rabbit.ctl("clear_permissions", "--vhost", vhost, "orders")
    found = await look_at("broker", settings_for(mq_url=mq_url))
    assert found.not_ok == {"vhost": Level.WRONG, "the rest": Level.UNKNOWN}
    assert "may not use this vhost" in found["vhost"].found


async def test_a_closed_broker_port_says_that_nobody_listens() -> None:
    found = await look_at("broker", settings_for(mq_url="amqp://a:b@127.0.0.1:1/"))
    assert found.not_ok == {"reachable": Level.WRONG, "the rest": Level.UNKNOWN}
    assert "nobody listens there" in found["reachable"].found


async def test_a_frozen_broker_is_given_up_within_its_deadline(
    own_rabbit: RabbitServer, mq_url: str, deadlines: list[Deadline]
) -> None:
    own_rabbit.freeze()
    async with asyncio.timeout(PATIENCE_SECONDS):
        found = await look_at("broker", settings_for(mq_url=mq_url, mq_connect_timeout_seconds=1))
    assert waited_for(deadlines) < 4
    assert found.not_ok == {"reachable": Level.WRONG, "the rest": Level.UNKNOWN}
    assert "did not answer in time" in found["reachable"].found
