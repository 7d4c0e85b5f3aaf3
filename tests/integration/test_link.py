"""A link that was given up is never used again, and a start that fails leaves nothing open."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterator
from typing import Any

import pytest
from faststream.rabbit.helpers import ChannelManager

from db.engine import Database
from service.app import Service, ServiceApp
from service.config.settings import Settings
from service.outbox.publisher import ConfirmingPublisher
from service.rabbitmq import declaration
from service.rabbitmq.broker import ServiceBroker
from service.rabbitmq.connection import LINK_FAILURES, Link
from service.rabbitmq.topology import Topology
from tests.factories import claimed_event
from tests.harness import Wire, eventually, running, settings_for
from tests.integration.steps import INCOMING, all_is_done, consumers, send
from tests.servers import AnyRabbit
from tests.servers.forwarder import Forwarders

FAILED_STARTS = 50


class Way:
    """The service's own way to the broker, which can be told to let nothing pass."""

    def __init__(self, forwarders: Forwarders, port: int, url: str) -> None:
        self._forwarders = forwarders
        self._port = port
        self.url = url

    def hold(self) -> None:
        self._forwarders.hold(self._port)

    def let_pass(self) -> None:
        self._forwarders.let_pass(self._port)


@pytest.fixture
def way(rabbit_server: AnyRabbit, mq_url: str) -> Iterator[Way]:
    with Forwarders() as forwarders:
        server = (rabbit_server.host, rabbit_server.port)
        port = forwarders.open(lambda: [server])
        yield Way(forwarders, port, mq_url.replace(f":{server[1]}/", f":{port}/"))


@pytest.fixture
def settings_by_the_way(database_url: str, way: Way) -> Settings:
    return settings_for(database_url=database_url, mq_url=way.url, mq_connect_timeout_seconds=10)


async def test_a_link_that_cannot_be_closed_in_time_is_dropped_and_never_consumed_from_again(
    settings_by_the_way: Settings,
    database: Database,
    way: Way,
    wire: Wire,
    mq_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As after an event loop that was blocked: the deadline passes before anything is done.
    monkeypatch.setattr("service.rabbitmq.connection.CLOSE_SECONDS", 0.0)
    async with running(settings_by_the_way) as app:
        broker = app.service.broker
        await send(wire, range(3))
        await all_is_done(database, mq_url, range(3))
        old = broker._link
        assert old is not None
        await app.service.supervisor.stop("intake")
        await send(wire, range(3, 20))
        await eventually(holds(app, 17))
        way.hold()
        broker.renew("the test wants another link")
        await eventually(not_consuming(broker))
        way.let_pass()
        await eventually(consuming(broker))
        app.service.supervisor.start("intake", app.service.intake.run)

        assert broker._link is not old
        await eventually(lambda: consumer_count_is(wire, 1))
        await send(wire, range(20, 40))
        await all_is_done(database, mq_url, range(40))
        assert await wire.depth(INCOMING) == 0


async def test_after_its_end_a_link_has_no_socket_though_the_broker_answers_nothing(
    settings_by_the_way: Settings, way: Way
) -> None:
    link = await Link.open(settings_by_the_way.broker, tls=None, timeout_seconds=10)
    before = open_sockets()
    way.hold()

    await link.end()

    await eventually(lambda: fewer_sockets_than(before))


async def no_channel(*_: Any) -> Any:
    raise ConnectionResetError("the link died before its first channel")


async def stands_still(*_: Any) -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize("failing", ["first channel", "topology", "subscriber", "deadline"])
async def test_a_start_that_fails_leaves_no_connection_channel_consumer_or_task(
    settings: Settings,
    database: Database,
    wire: Wire,
    failing: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = Service(settings)
    async with await Link.open(settings.broker, tls=None, timeout_seconds=10) as link:
        await declaration.ensure(service.topology, link)
    broker = service.broker
    manager: ChannelManager = broker.config.channel_manager
    monkeypatch.setattr(broker, "_connect_timeout", 5.0)
    match failing:
        case "first channel":
            monkeypatch.setattr(type(manager), "get_channel", no_channel)
        case "topology":
            monkeypatch.setattr(declaration, "ensure", no_channel)
        case "subscriber":
            monkeypatch.setattr(type(broker.subscribers[0]), "start", no_channel)
        case "deadline":
            monkeypatch.setattr(broker, "_connect_timeout", 0.1)
            monkeypatch.setattr(type(manager), "get_channel", stands_still)

    async def fail() -> None:
        with pytest.raises(LINK_FAILURES):
            await broker._establish()
        await broker.tear_down()

    await fail()
    sockets, tasks = open_sockets(), len(asyncio.all_tasks())
    for _ in range(FAILED_STARTS):
        await fail()

    await eventually(lambda: counts_are_back(sockets, tasks))
    assert await consumers(wire) == 0
    await service.database.dispose()


async def test_a_publisher_whose_broker_stands_still_keeps_no_link(
    settings_by_the_way: Settings, way: Way
) -> None:
    publisher = ConfirmingPublisher(
        settings_by_the_way.broker,
        Topology.of(settings_by_the_way),
        tls=None,
        connect_timeout_seconds=10,
        publish_timeout_seconds=10,
    )
    await publisher.publish([claimed_event(exchange="")])
    before = open_sockets()
    way.hold()

    await publisher.close()

    await eventually(lambda: fewer_sockets_than(before))


def holds(app: ServiceApp, count: int) -> Any:
    async def asked() -> bool:
        return len(app.service.at_hand) == count

    return asked


def consuming(broker: ServiceBroker) -> Any:
    async def asked() -> bool:
        return broker.consuming

    return asked


def not_consuming(broker: ServiceBroker) -> Any:
    async def asked() -> bool:
        return not broker.consuming

    return asked


async def consumer_count_is(wire: Wire, count: int) -> bool:
    return await consumers(wire) == count


def open_sockets() -> int:
    """Of this process."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += stat.S_ISSOCK(os.stat(f"/proc/self/fd/{name}").st_mode)
        except OSError:
            continue  # the folder's own
    return found


async def fewer_sockets_than(count: int) -> bool:
    return open_sockets() < count


async def counts_are_back(sockets: int, tasks: int) -> bool:
    return open_sockets() <= sockets and len(asyncio.all_tasks()) <= tasks
