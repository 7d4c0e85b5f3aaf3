"""The servers the other tests rely on: what these prove of them, faults may then be built on."""

import asyncio
from pathlib import Path

import aio_pika
import pytest

from tests.patience import PATIENCE_SECONDS
from tests.servers import (
    AnyDatabase,
    AnyRabbit,
    DatabaseServer,
    GivenDatabase,
    GivenRabbit,
    NotOurs,
    RabbitServer,
    ServersUnavailable,
)
from tests.servers.handshake import mysql_version, rabbitmq_version
from tests.servers.place import Place


@pytest.fixture
def database(database_server: AnyDatabase) -> DatabaseServer:
    if isinstance(database_server, GivenDatabase):
        pytest.skip("the database server is not ours to break")
    return database_server


@pytest.fixture
def rabbit(rabbit_server: AnyRabbit) -> RabbitServer:
    if isinstance(rabbit_server, GivenRabbit):
        pytest.skip("the broker is not ours to break")
    return rabbit_server


def test_every_database_url_names_an_empty_database(
    database_server: AnyDatabase, database_url: str
) -> None:
    name = database_url.rpartition("/")[2]
    assert database_server.execute(f"SHOW TABLES FROM {name}") == ""


def test_a_private_database_is_fully_durable(database: DatabaseServer) -> None:
    durability = "@@innodb_flush_log_at_trx_commit, @@sync_binlog, @@log_bin"
    assert database.execute(f"SELECT {durability}").split() == ["1", "1", "1"]


def test_a_killed_database_keeps_its_data_and_its_port(
    database: DatabaseServer, database_url: str
) -> None:
    name = database_url.rpartition("/")[2]
    database.execute(f"CREATE TABLE {name}.orders (id INT); INSERT INTO {name}.orders VALUES (7)")
    database.kill()
    assert mysql_version(database.host, database.port) is None

    database.start()
    assert database.execute(f"SELECT id FROM {name}.orders") == "7\n"


def test_a_frozen_database_answers_again_when_thawed(database: DatabaseServer) -> None:
    database.freeze()
    try:
        assert mysql_version(database.host, database.port) is None
    finally:
        database.thaw()
    assert mysql_version(database.host, database.port, PATIENCE_SECONDS) == database.version


def test_a_killed_broker_keeps_its_queues_its_messages_and_its_port(
    rabbit: RabbitServer, mq_url: str
) -> None:
    asyncio.run(_publish(mq_url, b"kept"))
    rabbit.settle()
    rabbit.kill()
    assert rabbitmq_version(rabbit.host, rabbit.port) is None

    rabbit.start()
    assert asyncio.run(_get(mq_url)) == b"kept"


def test_a_broker_tells_how_a_queue_was_declared(rabbit: RabbitServer, mq_url: str) -> None:
    vhost = mq_url.rpartition("/")[2]
    asyncio.run(_publish(mq_url, b"anything"))

    assert rabbit.queue_arguments(vhost, "queue") == {"x-queue-type": "quorum"}
    with pytest.raises(LookupError, match="no queue 'other'"):
        rabbit.queue_arguments(vhost, "other")


def test_a_frozen_broker_answers_again_when_thawed(rabbit: RabbitServer) -> None:
    rabbit.freeze()
    try:
        assert rabbitmq_version(rabbit.host, rabbit.port) is None
    finally:
        rabbit.thaw()
    assert rabbitmq_version(rabbit.host, rabbit.port, PATIENCE_SECONDS) == rabbit.version


def test_a_given_database_lends_databases_but_not_itself(database: DatabaseServer) -> None:
    given = GivenDatabase.at(database.url(""))
    url = given.create_database("lent")
    assert url.endswith(f":{database.port}/lent")
    given.drop_database("lent")
    with pytest.raises(NotOurs, match="cannot kill the database server that TEST_DATABASE_URL"):
        given.kill()
    assert database.running


def test_a_given_broker_is_used_as_it_is(rabbit: RabbitServer) -> None:
    given = GivenRabbit.at(rabbit.url())
    assert given.create_vhost("any") == rabbit.url()
    with pytest.raises(NotOurs, match="cannot freeze the RabbitMQ that TEST_MQ_URL"):
        given.freeze()


def test_missing_servers_say_how_to_get_them(tmp_path: Path) -> None:
    nothing_installed = Place(tmp_path)
    with pytest.raises(ServersUnavailable, match="apt-get install mariadb-server"):
        DatabaseServer.find(nothing_installed)
    with pytest.raises(ServersUnavailable, match="apt-get install rabbitmq-server"):
        RabbitServer.find(nothing_installed)


async def _publish(url: str, body: bytes) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("queue", durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(aio_pika.Message(body, delivery_mode=2), "queue")


async def _get(url: str) -> bytes:
    async with await aio_pika.connect(url) as connection:
        queue = await (await connection.channel()).get_queue("queue")
        message = await queue.get(timeout=PATIENCE_SECONDS)
        await message.ack()
        return message.body
