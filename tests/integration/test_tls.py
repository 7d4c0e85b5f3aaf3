"""TLS that is asked for is had, with a server that is who it should be, or there is no link."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import aio_pika
import pytest
from pymysql.constants import CLIENT
from sqlalchemy.exc import OperationalError

from db.engine import Database
from service.config.settings import Settings
from service.database import check_schema, migrate, open_database
from service.doctor import Finding, Level, check_all
from service.driver_errors import explain_database
from service.rabbitmq.declaration import ensure
from service.rabbitmq.topology import Topology
from tests.harness import Wire, settings_for
from tests.integration.steps import INCOMING, PROCESSED, all_is_done, send
from tests.patience import PATIENCE_SECONDS
from tests.processes import ServiceProcess, service_process
from tests.servers import (
    AnyDatabase,
    AnyRabbit,
    DatabaseServer,
    RabbitServer,
    private_database,
    private_rabbitmq,
    wait_until,
)
from tests.servers.server import HOST, PASSWORD, USER
from tests.servers.tls import DAY, Authority

HOUR = timedelta(hours=1)
NO_MANAGEMENT = "http://127.0.0.1:1"


@dataclass(frozen=True)
class SecureServers:
    """Servers of this module alone, with a certificate for 127.0.0.1 and for no other name."""

    database: DatabaseServer
    rabbit: RabbitServer
    authority: Authority
    folder: Path

    def settings(self, **overrides: Any) -> Settings:
        """A production service that trusts the authority of these servers."""
        secure: dict[str, Any] = {
            "environment": "production",
            "db_host": self.database.host,
            "db_port": self.database.port,
            "db_user": USER,
            "db_password": PASSWORD,
            "db_tls_ca": self.trusting(self.authority),
            "mq_host": self.rabbit.host,
            "mq_port": self.rabbit.tls_port,
            "mq_user": USER,
            "mq_password": PASSWORD,
            "mq_tls_ca": self.trusting(self.authority),
            "mq_management_url": NO_MANAGEMENT,
        }
        return settings_for(**secure | overrides)

    def trusting(self, authority: Authority) -> Path:
        """A file of certificates with this one in it."""
        path = self.folder / f"{id(authority)}.pem"
        path.write_bytes(authority.pem)
        return path

    def present(self, server: DatabaseServer | RabbitServer, *, ends_in: timedelta) -> None:
        """Start the server again, with a new certificate."""
        server.certificate = self.authority.certify(server.host, ends_in=ends_in)
        server.restart()


@pytest.fixture(scope="module")
def secure(
    database_server: AnyDatabase, rabbit_server: AnyRabbit, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SecureServers]:
    if not (database_server.private and rabbit_server.private):
        pytest.skip("servers with a certificate have to be our own")
    database, rabbit = private_database(), private_rabbitmq()
    authority = Authority()
    with ExitStack() as running:
        for server in (database, rabbit):
            server.certificate = authority.certify(server.host)
        with ThreadPoolExecutor() as pool:
            for ready in [pool.submit(running.enter_context, each) for each in (database, rabbit)]:
                ready.result()
        database.create_database("order_db")
        yield SecureServers(database, rabbit, authority, tmp_path_factory.mktemp("authorities"))


@pytest.fixture
async def store(secure: SecureServers) -> AsyncIterator[Database]:
    """The service's tables, by way of TLS, new for this test."""
    secure.database.execute("DROP DATABASE order_db")
    secure.database.create_database("order_db")
    store = open_database(secure.settings())
    await migrate(store)
    yield store
    await store.dispose()
    async with Wire.connected(secure.rabbit.url()) as wire:
        await wire.channel.queue_delete(PROCESSED)


# A server that can be trusted


async def test_over_verified_tls_an_order_goes_all_the_way_and_a_renewed_certificate_is_taken(
    secure: SecureServers, store: Database
) -> None:
    plain = secure.rabbit.url()
    with service_process(secure.settings()) as service:
        service.wait_for_status("/health/ready", 200)
        async with Wire.connected(plain) as wire:
            await send(wire, [0])
        await all_is_done(store, plain, [0])

        await asyncio.to_thread(secure.rabbit.settle)
        for server, waits in (
            (secure.database, "relay-waiting"),
            (secure.rabbit, "broker-waiting"),
        ):
            await asyncio.to_thread(secure.present, server, ends_in=-HOUR)
            await asyncio.to_thread(
                wait_until, partial(expired, service, waits), PATIENCE_SECONDS, "has expired"
            )
            await asyncio.to_thread(secure.present, server, ends_in=DAY)
        await asyncio.to_thread(service.wait_for_status, "/health/ready", 200)
        async with Wire.connected(plain) as wire:
            await send(wire, [1])
        await all_is_done(store, plain, [0, 1])


@pytest.mark.usefixtures("store")
async def test_check_says_that_both_links_are_encrypted(secure: SecureServers) -> None:
    logins = [each for each in await check_all(secure.settings()) if each.name == "login"]

    assert [each.level for each in logins] == [Level.OK, Level.OK]
    database, broker = (each.found for each in logins)
    assert database.endswith(("TLSv1.3", "TLSv1.2"))
    assert broker.endswith("TLS, certificate verified")


# One that cannot


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("server", ["database", "broker"])
async def test_a_server_of_another_authority_is_refused(secure: SecureServers, server: str) -> None:
    refusal = await refused(secure, server, tls_ca=secure.trusting(Authority("another")))

    assert "TLS failed, its certificate cannot be trusted" in refusal.found


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("server", ["database", "broker"])
async def test_a_server_of_another_name_is_refused(secure: SecureServers, server: str) -> None:
    refusal = await refused(secure, server, host="localhost")

    assert "TLS failed, its certificate cannot be trusted" in refusal.found
    assert "not valid for 'localhost'" in refusal.found


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("server", ["database", "broker"])
async def test_a_server_of_a_public_authority_is_expected_where_none_is_named(
    secure: SecureServers, server: str
) -> None:
    refusal = await refused(secure, server, tls_ca=None, tls=True)

    assert "TLS failed, its certificate cannot be trusted" in refusal.found


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(("server", "prefix"), [("database", "DB"), ("broker", "MQ")])
async def test_a_refusal_says_what_to_do(secure: SecureServers, server: str, prefix: str) -> None:
    wrong_authority = await refused(secure, server, tls_ca=secure.trusting(Authority("another")))
    wrong_name = await refused(secure, server, host="localhost")

    assert f"{prefix}_TLS_CA" in wrong_authority.found + wrong_authority.advice
    assert f"{prefix}_HOST" in wrong_name.found + wrong_name.advice


async def test_a_service_that_does_not_trust_its_broker_takes_nothing_from_it(
    secure: SecureServers, store: Database
) -> None:
    plain = secure.rabbit.url()
    async with await aio_pika.connect(plain) as connection:
        await ensure(Topology.of(secure.settings()), connection)
    async with Wire.connected(plain) as wire:
        await send(wire, [0])
        another = secure.trusting(Authority("another"))
        with service_process(secure.settings(mq_tls_ca=another)) as service:
            (wait, *_) = service.wait_until_told("broker-waiting", times=2)
            assert "cannot be trusted" in wait["why"]
            assert service.status("/health/ready") == 503
            assert service.told("consuming") == []
        assert await wire.depth(INCOMING) == 1

    with service_process(secure.settings()) as service:
        service.wait_for_status("/health/ready", 200)
        await all_is_done(store, plain, [0])


# One that offers none


async def test_a_server_without_tls_is_refused_when_tls_is_asked_for(database_url: str) -> None:
    database = open_database(settings_for(database_url=database_url, db_tls=True))

    with pytest.raises(OperationalError) as refused:
        await check_schema(database)

    assert "TLS" in explain_database(refused.value)
    await database.dispose()


async def test_whoever_stands_in_for_the_database_without_tls_is_told_no_password(
    secure: SecureServers,
) -> None:
    async with stand_in_for_the_database() as (port, received):
        database = open_database(secure.settings(db_port=port))
        with pytest.raises(OperationalError) as refused:
            await check_schema(database)
        await database.dispose()

    assert PASSWORD.encode() not in b"".join(received)
    assert "TLS" in explain_database(refused.value)


def test_a_missing_authority_file_is_named_at_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        settings_for(db_tls_ca=tmp_path / "missing.pem")


# Steps


async def refused(secure: SecureServers, server: str, **changes: Any) -> Finding:
    """What check says of a server that these changes of the settings make one not to trust."""
    prefix = {"database": "db", "broker": "mq"}[server]
    settings = secure.settings(**{f"{prefix}_{name}": value for name, value in changes.items()})
    of_server = [each for each in await check_all(settings) if each.subject == server]
    (wrong,) = (each for each in of_server if each.level is Level.WRONG)
    assert wrong.name == "reachable"
    return wrong


def expired(service: ServiceProcess, action: str) -> bool:
    return any("has expired" in wait["why"] for wait in service.told(action))


@asynccontextmanager
async def stand_in_for_the_database() -> AsyncIterator[tuple[int, list[bytes]]]:
    """A port where MySQL seems to answer without TLS, and asks for the password as it is.

    Yields the port, and what clients sent there.
    """
    received: list[bytes] = []
    speaking: list[asyncio.Task[Any]] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        speaking.append(cast("asyncio.Task[Any]", asyncio.current_task()))
        with contextlib.suppress(ConnectionError):
            for number, packet in ((0, _greeting()), (2, b"\xfemysql_clear_password\0")):
                writer.write(len(packet).to_bytes(3, "little") + bytes([number]) + packet)
                received.append(await reader.read(4096))
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(speak, HOST) as server:
        yield server.sockets[0].getsockname()[1], received
        await asyncio.gather(*speaking)


def _greeting() -> bytes:
    """Protocol 10, with everything a client of today expects except TLS."""
    offered = CLIENT.PROTOCOL_41 | CLIENT.SECURE_CONNECTION | CLIENT.PLUGIN_AUTH
    offered |= CLIENT.CONNECT_WITH_DB | CLIENT.TRANSACTIONS
    capabilities = offered.to_bytes(4, "little")
    charset, status, length_of_salt = b"\x2d", b"\2\0", b"\x15"
    return b"".join(
        [
            *(b"\x0a", b"8.4.0\0", bytes(4), b"saltsalt\0", capabilities[:2]),
            *(charset, status, capabilities[2:], length_of_salt, bytes(10)),
            *(b"saltsaltsalt\0", b"mysql_native_password\0"),
        ]
    )
