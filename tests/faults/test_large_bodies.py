"""A body too large for a row goes to the dead-letter queue without the outbox: as it was before."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest

from db.models import DeadLetter, Order
from service.database import migrate, open_database
from service.rabbitmq.declaration import ensure
from service.rabbitmq.topology import Topology
from tests.factories import order_created_json
from tests.faults.framing import AMQPFraming, Moment
from tests.faults.proxied_link import Action
from tests.faults.proxy import Proxy, Trap
from tests.harness import Wire, eventually, rows, running, settings_for
from tests.integration.steps import DLQ
from tests.processes import ServiceProcess, service_process
from tests.servers import AnyRabbit

TOO_LARGE_TO_STORE = b"x" * (1024 * 1024 + 1)


def through(proxy: Proxy, url: str) -> str:
    """The same place, by way of the proxy."""
    parts = urlsplit(url)
    account, _, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{account}@{proxy.host}:{proxy.port}").geturl()


@pytest.mark.servers
async def test_a_large_body_whose_ack_is_cut_off_is_passed_on_again_as_it_was(
    rabbit_server: AnyRabbit, database_url: str, mq_url: str
) -> None:
    async with Proxy(AMQPFraming, rabbit_server.host, rabbit_server.port) as proxy:
        settings = settings_for(database_url=database_url, mq_url=through(proxy, mq_url))
        database = open_database(settings)
        await migrate(database)
        await database.dispose()
        async with running(settings), Wire.connected(mq_url) as wire:
            await wire.listen(DLQ)
            proxy.arm(Trap(Moment.ACK, Action.CUT))
            await wire.send(TOO_LARGE_TO_STORE)
            first, again = await wire.hear(DLQ, 2)
    assert (again.message_id, again.body) == (first.message_id, first.body)
    assert again.headers == first.headers
    assert again.timestamp == first.timestamp


MIB = 1024 * 1024
LARGE, HEALTHY = 40, 20
BODY = 15 * MIB
# Less than the bodies, which are delivered at once where a prefetch counts messages alone.
MEMORY = 450 * MIB
RESIDENT = 400 * MIB


@pytest.mark.servers
async def test_bodies_of_more_than_the_memory_there_is_are_passed_on_and_what_follows_is_processed(
    database_url: str, mq_url: str
) -> None:
    settings = settings_for(database_url=database_url, mq_url=mq_url)
    database = open_database(settings)
    await migrate(database)
    async with Wire.connected(mq_url) as wire:
        await ensure(Topology.of(settings), wire.connection)
        for number in range(LARGE):
            await wire.send(b"%d" % number + b"\xff" * BODY)
        for number in range(HEALTHY):
            fields = {"orderId": f"o-{number}", "idempotencyKey": f"k-{number}"}
            await wire.send(order_created_json(**fields))
        with service_process(settings) as service:
            service.limit_memory(MEMORY)
            await eventually(lambda: decided(service, LARGE + HEALTHY), within=240)
            peak = service.peak_memory()
            assert service.status("/health/ready") == 200
            for action in ("consuming-stopped", "broker-waiting", "message-failed"):
                assert service.told(action) == []
        assert await wire.depth(DLQ) == LARGE
    assert len(await rows(database, Order)) == HEALTHY
    assert len(await rows(database, DeadLetter)) == LARGE
    await database.dispose()
    assert peak < RESIDENT


async def decided(service: ServiceProcess, count: int) -> bool:
    try:
        return await asyncio.to_thread(service.decided) >= count
    except OSError:
        return False  # it is starting
