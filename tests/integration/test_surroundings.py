"""Exchanges and queues that others made before: what is refused, and what is said of the rest."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from db.engine import Database
from service.config.settings import Settings
from service.doctor import Finding, Level
from service.doctor.broker import check_broker
from service.domain.errors import TopologyRefusedError
from service.rabbitmq.compatibility import Difference, Harm
from service.rabbitmq.declaration import ensure
from service.rabbitmq.topology import Topology
from tests.commands import orders
from tests.harness import Wire, settings_for
from tests.processes import environment_of, service_process
from tests.servers import AnyRabbit
from tests.servers.forwarder import Forwarders

INCOMING, PROCESSED, FAILED, DLQ = (
    "order_created_queue",
    "order_processed_queue",
    "order_failed_queue",
    "order_dlq",
)
EXCHANGE = "order_events"
QUORUM = {"x-queue-type": "quorum"}
OURS = dict(Topology.of(Settings()).incoming.arguments)
TO_INCOMING = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": INCOMING}


@pytest.fixture(scope="module")
def mq_url(rabbit_server: AnyRabbit) -> Iterator[str]:
    """One vhost for all of them: each test leaves it empty."""
    rabbit_server.revive()
    name = f"orders-test-{secrets.token_hex(4)}"
    yield rabbit_server.create_vhost(name)
    rabbit_server.delete_vhost(name)


@pytest.fixture(autouse=True)
async def _leave_nothing(mq_url: str) -> AsyncIterator[None]:
    yield
    async with Wire.connected(mq_url) as wire:
        for queue in (INCOMING, PROCESSED, FAILED, DLQ):
            await wire.channel.queue_delete(queue)
        await wire.channel.exchange_delete(EXCHANGE)


@pytest.fixture
def at_broker(mq_url: str, tmp_path: Path) -> Settings:
    return settings_for(
        mq_url=mq_url, sqlite_path=tmp_path / "orders.db", mq_management_url="http://127.0.0.1:1"
    )


async def made_by_others(wire: Wire, what: str, **options: Any) -> None:
    if what == EXCHANGE:
        kind = options.pop("type", "topic")
        await wire.channel.declare_exchange(what, kind, **{"durable": True, **options})
    else:
        await wire.channel.declare_queue(what, **{"durable": True, **options})


async def finding(settings: Settings, what: str) -> Finding:
    kind = "exchange" if what == EXCHANGE else "queue"
    (found,) = [each for each in await check_broker(settings) if each.name == f"{kind} {what}"]
    return found


async def told_at_start(settings: Settings) -> list[Difference]:
    async with await aio_pika.connect(settings.broker) as connection:
        return await ensure(Topology.of(settings), connection)


REFUSED = [
    (EXCHANGE, {"type": "fanout"}, "a fanout exchange"),
    (EXCHANGE, {"type": "headers"}, "a headers exchange"),
    (EXCHANGE, {"internal": True}, "a topic exchange, internal"),
    (INCOMING, {"arguments": {"x-queue-type": "stream"}}, "a stream"),
    (INCOMING, {"durable": False}, "a classic queue, not durable"),
    (INCOMING, {"auto_delete": True}, "a classic queue, deleted when unused"),
]


@pytest.mark.parametrize(("what", "options", "there"), REFUSED)
async def test_what_would_lose_orders_or_have_them_go_round_is_refused(
    at_broker: Settings, wire: Wire, what: str, options: dict[str, Any], there: str
) -> None:
    await made_by_others(wire, what, **options)
    with pytest.raises(TopologyRefusedError) as refused:
        await told_at_start(at_broker)
    assert f"{what} is there as {there}, and a" in str(refused.value)
    found = await finding(at_broker, what)
    assert found.level is Level.WRONG
    assert str(refused.value) in found.advice


async def test_an_exchange_that_is_refused_has_nothing_bound_to_it(
    at_broker: Settings, wire: Wire
) -> None:
    await made_by_others(wire, EXCHANGE, type="fanout")
    await made_by_others(wire, INCOMING, arguments=OURS)
    with pytest.raises(TopologyRefusedError):
        await told_at_start(at_broker)
    exchange = await wire.channel.get_exchange(EXCHANGE)
    await exchange.publish(aio_pika.Message(b"event"), "order.processed", mandatory=False)
    assert await wire.depth(INCOMING) == 0


SAID = [
    (EXCHANGE, {"type": "direct"}, Level.WARNING, "patterns such as order.*"),
    (EXCHANGE, {"durable": False}, Level.WRONG, "others' bindings go with it"),
    (EXCHANGE, {"auto_delete": True}, Level.WRONG, "others' bindings go with it"),
    (
        EXCHANGE,
        {"arguments": {"alternate-exchange": "else"}},
        Level.WARNING,
        "finds no queue goes to else",
    ),
    (INCOMING, {}, Level.WARNING, "not replicated"),
    (
        INCOMING,
        {"arguments": {"x-message-ttl": 60000}},
        Level.WRONG,
        "waits for 60 s is dropped unread",
    ),
    (
        INCOMING,
        {"arguments": OURS | {"x-message-ttl": 60000}},
        Level.WRONG,
        "waits for 60 s is moved to order_dlq unread",
    ),
    (INCOMING, {"arguments": {"x-max-length": 10}}, Level.WRONG, "beyond 10 messages the oldest"),
    (
        INCOMING,
        {"arguments": QUORUM | {"x-max-length": 10, "x-overflow": "drop-head"}},
        Level.WRONG,
        "beyond 10 messages the oldest",
    ),
    (INCOMING, {"arguments": {"x-expires": 90000}}, Level.WRONG, "no service runs for 90 s"),
    (
        INCOMING,
        {"arguments": OURS | {"x-single-active-consumer": True}},
        Level.WARNING,
        "one process takes orders",
    ),
    (INCOMING, {"arguments": {"x-max-priority": 5}}, Level.WARNING, "overtake the others"),
    (
        INCOMING,
        {"arguments": QUORUM | {"x-delivery-limit": 3}},
        Level.WRONG,
        "dropped after 3 deliveries",
    ),
    (INCOMING, {"arguments": OURS | TO_INCOMING}, Level.WRONG, "it would go round"),
    (
        INCOMING,
        {"arguments": OURS | {"x-dead-letter-routing-key": PROCESSED}},
        Level.WRONG,
        f"moved to {PROCESSED}",
    ),
    (
        DLQ,
        {"arguments": QUORUM | TO_INCOMING | {"x-message-ttl": 30000}},
        Level.WARNING,
        "decided anew",
    ),
    (PROCESSED, {"arguments": TO_INCOMING}, Level.WRONG, "our own events come back as work"),
    (
        FAILED,
        {"arguments": TO_INCOMING | {"x-dead-letter-exchange": EXCHANGE}},
        Level.WARNING,
        "not replicated",
    ),
    (DLQ, {"durable": False}, Level.WRONG, "the broker restarts"),
    (DLQ, {"arguments": {"x-queue-type": "stream"}}, Level.WARNING, "retention"),
]


@pytest.mark.parametrize(("what", "options", "level", "cost"), SAID)
async def test_what_is_used_as_it_is_is_said_with_its_cost_at_start_and_by_check(
    at_broker: Settings, wire: Wire, what: str, options: dict[str, Any], level: Level, cost: str
) -> None:
    await made_by_others(wire, what, **options)
    (difference,) = await told_at_start(at_broker)
    assert cost in difference.lost
    found = await finding(at_broker, what)
    assert (found.level, cost in found.advice) == (level, True)
    assert difference.harm is (Harm.BROKEN if level is Level.WRONG else Harm.LESS)


async def test_learning_what_a_queue_is_changes_nothing_of_it(
    at_broker: Settings, wire: Wire
) -> None:
    arguments = {"x-max-length": 10, "x-message-ttl": 5000, "x-max-priority": 3}
    await made_by_others(wire, INCOMING, arguments=arguments)
    await told_at_start(at_broker)
    await finding(at_broker, INCOMING)
    await made_by_others(wire, INCOMING, arguments=arguments)  # refused if it had changed


# The commands.


@pytest.mark.parametrize(
    ("what", "options"), [REFUSED[0][:2], REFUSED[3][:2]], ids=["exchange", "stream"]
)
async def test_the_service_does_not_start_and_check_says_why(
    settings: Settings, database: Database, wire: Wire, what: str, options: dict[str, Any]
) -> None:
    await made_by_others(wire, what, **options)
    with service_process(settings) as service:
        assert await asyncio.to_thread(service.wait) == 3
        (line,) = [each for each in service.lines if "The service cannot start" in each]
        assert not any("Traceback" in each for each in service.lines)
    assert f"the service makes it, or set {'EVENTS_EX' if what == EXCHANGE else 'INCOMING'}" in line
    checked = await asyncio.to_thread(orders, "check", environment=environment_of(settings))
    assert checked.returncode == 1
    assert "the service does not start" in checked.stdout


async def test_a_broker_that_comes_later_and_is_refused_ends_the_service(
    settings: Settings, database: Database, wire: Wire
) -> None:
    await made_by_others(wire, EXCHANGE, type="fanout")
    port = int(settings.broker.rpartition(":")[2].partition("/")[0])
    with Forwarders() as forwarders:
        front = forwarders.open(lambda: [("127.0.0.1", port)])
        forwarders.refuse(front)
        later = settings.broker.replace(f":{port}/", f":{front}/")
        with service_process(settings.model_copy(update={"mq_url": later})) as service:
            await asyncio.to_thread(service.wait_until_told, "broker-waiting")
            forwarders.let_pass(front)
            (told,) = await asyncio.to_thread(service.wait_until_told, "topology-refused")
            assert await asyncio.to_thread(service.wait) == -15
    assert "a fanout exchange" in told["why"]
