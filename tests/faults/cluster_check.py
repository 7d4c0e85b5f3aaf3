"""A cluster of three brokers, whose nodes die and are cut off, under the service and its relay."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aio_pika
import pytest

from db.outbox import ClaimedEvent
from service.domain.errors import BrokerAwayError
from service.outbox.envelope import new_id
from service.outbox.publisher import Confirmed, ConfirmingPublisher, PublishOutcome, Rejected
from service.rabbitmq.declaration import ensure
from service.rabbitmq.topology import PROCESSED_KEY, Topology
from tests.faults.campaign import Plan
from tests.faults.cluster_faults import PROCESSED, faults_named, run, servers_of
from tests.faults.cluster_stage import BACK_SECONDS
from tests.faults.setting import EXCHANGE, Servers
from tests.harness import settings_for
from tests.servers import AnyDatabase, AnyRabbit
from tests.servers.cluster import SIZE, RabbitCluster
from tests.servers.place import chosen_place

pytestmark = pytest.mark.servers

# A seed of short holds.
SEED, RATE = 375, 40.0
KINDS = ("kill-leader-of-incoming", "partition-that-resets")
VHOST = "orders"
AGAIN_SECONDS = 0.3


@pytest.fixture(scope="module")
def cluster(rabbit_server: AnyRabbit) -> Iterator[RabbitCluster]:
    if not rabbit_server.private:
        pytest.skip("a cluster is started where RabbitMQ is installed, not where one is lent")
    with RabbitCluster.find(chosen_place()) as cluster:
        yield cluster


@pytest.fixture
def servers(database_server: AnyDatabase, cluster: RabbitCluster) -> Servers:
    if not database_server.private:
        pytest.skip("a database that is lent to the tests is not to be revived")
    cluster.revive()
    return servers_of(database_server, cluster)


async def test_a_leader_that_dies_and_one_that_is_cut_off_lose_nothing_and_repeat_no_effect(
    servers: Servers, tmp_path: Path
) -> None:
    plan = Plan(SEED, len(KINDS), 0, RATE, faults_named(KINDS))
    report = await run(plan, tmp_path, servers)

    assert report.wrong == []
    assert {each.fault for each in report.cycles} == set(KINDS)
    sums = report.sums
    assert sums.ok == sums.acknowledged + sums.recovered > 0
    assert (sums.lost, sums.unexpected) == (0, 0)


async def test_a_relay_that_publishes_between_two_leaders_fails_no_event_and_soon_has_it_confirmed(
    cluster: RabbitCluster,
) -> None:
    await asyncio.to_thread(cluster.revive)
    await asyncio.to_thread(cluster.create_vhost, VHOST)
    async with await aio_pika.connect(cluster.url(VHOST)) as connection:
        await ensure(Topology.of(settings_for()), connection)
    await asyncio.to_thread(cluster.settle)
    leader = await asyncio.to_thread(cluster.leader_of, VHOST, PROCESSED)

    async with publisher_at(cluster, (leader + 1) % SIZE) as publisher:
        assert await publisher.publish([]) == []  # its channel is open and has published nothing
        await asyncio.to_thread(cluster.nodes[leader].kill)
        outcome = await published(publisher, event())

    assert isinstance(outcome, Confirmed)


@asynccontextmanager
async def publisher_at(cluster: RabbitCluster, number: int) -> AsyncIterator[ConfirmingPublisher]:
    """The service's own, linked to this node."""
    publisher = ConfirmingPublisher(
        f"{cluster.nodes[number].url(VHOST)}?heartbeat=8",
        Topology.of(settings_for()),
        tls=None,
        connect_timeout_seconds=5,
        publish_timeout_seconds=4,
    )
    try:
        yield publisher
    finally:
        await publisher.close()


async def published(publisher: ConfirmingPublisher, event: ClaimedEvent) -> PublishOutcome | None:
    """What becomes of it in the end; tried again as the relay does.

    Raises:
        AssertionError: it was refused as if that were its own fault.
    """
    until = time.monotonic() + BACK_SECONDS
    outcome: PublishOutcome | None = None
    while not isinstance(outcome, Confirmed) and time.monotonic() < until:
        with suppress(BrokerAwayError):
            (outcome,) = await publisher.publish([event])
        assert not isinstance(outcome, Rejected), outcome.reason
        await asyncio.sleep(AGAIN_SECONDS)
    return outcome


def event() -> ClaimedEvent:
    return ClaimedEvent(
        event_id=new_id(),
        event_type="OrderProcessed",
        aggregate_type="order",
        aggregate_id="order-1",
        exchange=EXCHANGE,
        routing_key=PROCESSED_KEY,
        payload=b"{}",
        content_type="application/json",
        correlation_id=None,
        headers={},
    )
