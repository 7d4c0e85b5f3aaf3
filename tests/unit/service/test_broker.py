from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from aio_pika.exceptions import AMQPError

import service.rabbitmq.broker
from service.config.settings import Settings
from service.consumer.subscriber import incoming_queue
from service.rabbitmq.broker import ServiceBroker, _answer
from service.rabbitmq.topology import Topology
from tests.patience import PATIENCE_SECONDS


@pytest.mark.parametrize(
    "failure",
    [AMQPError(), ConnectionResetError(), RuntimeError("closed"), asyncio.CancelledError()],
)
async def test_a_link_that_is_lost_while_it_is_asked_gives_no_answer(
    failure: BaseException,
) -> None:
    async def ask() -> int:
        raise failure

    assert await _answer(ask) is None


async def test_who_is_told_to_end_while_asking_ends() -> None:
    asking = asyncio.create_task(_answer(asyncio.Event().wait))
    await asyncio.sleep(0)
    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking


class AskedAlone:
    """A link over which nothing is delivered."""

    async def answered(self, question: Coroutine[Any, Any, Any], *, within_seconds: float) -> Any:
        return await question


@pytest.mark.parametrize("asked", ["the consumer's channel", "the topology"])
async def test_a_link_that_is_lost_while_it_is_looked_after_is_told_as_the_loss_of_the_link(
    asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topology = Topology.of(Settings())
    broker = ServiceBroker(
        "amqp://broker/",
        broker_name="broker",
        incoming=incoming_queue(topology),
        topology=topology,
        connect_timeout_seconds=1,
        drain_seconds=1,
        leave_seconds=1,
    )

    async def lost_meanwhile(*_: Any) -> Any:
        """Ends as the client ends whoever waits for an answer on a link that it loses."""
        broker._lost.set()
        raise asyncio.CancelledError

    async def consumes() -> bool:
        return True

    monkeypatch.setattr(service.rabbitmq.broker, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(service.rabbitmq.broker, "RESTORE_SECONDS", 0)
    if asked == "the topology":
        monkeypatch.setattr(broker, "_has_consumer", consumes)
        monkeypatch.setattr(broker, "_link", AskedAlone())
        monkeypatch.setattr("service.rabbitmq.declaration.restore", lost_meanwhile)
    else:
        monkeypatch.setattr(broker, "declare_queue", lost_meanwhile)

    async with asyncio.timeout(PATIENCE_SECONDS):
        assert "lost" in await broker._until_lost(lambda: None)
