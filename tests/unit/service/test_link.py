"""A load balancer without a node behind it accepts a connection, and hangs up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from service.config.settings import Settings
from service.doctor import Level
from service.doctor.broker import check_broker
from service.domain.errors import BrokerAwayError
from service.outbox.publisher import ConfirmingPublisher
from service.rabbitmq.topology import Topology
from service.sender import Sent, send
from tests.factories import claimed_event, order_created_json


@pytest.fixture(params=["at once", "after the greeting"])
async def settings(request: pytest.FixtureRequest) -> AsyncIterator[Settings]:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if request.param == "after the greeting":
            await reader.readexactly(len(b"AMQP\x00\x00\x09\x01"))
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Settings(
            environment="development",
            mq_url=SecretStr(f"amqp://orders:secret@127.0.0.1:{port}/"),
            mq_connect_timeout_seconds=2,
        )


async def test_the_relay_waits_for_the_broker(settings: Settings) -> None:
    publisher = ConfirmingPublisher(
        settings.broker,
        Topology.of(settings),
        tls=None,
        connect_timeout_seconds=2,
        publish_timeout_seconds=3,
    )

    with pytest.raises(BrokerAwayError):
        await publisher.publish([claimed_event()])


async def test_a_check_finds_the_broker_away(settings: Settings) -> None:
    findings = await check_broker(settings)

    assert findings[0].level is Level.WRONG
    assert findings[0].name == "reachable"


async def test_what_sends_orders_says_that_the_broker_is_away(settings: Settings) -> None:
    with pytest.raises(BrokerAwayError):
        await send(settings, iter([(1, order_created_json())]), Sent(), progress=lambda: None)
