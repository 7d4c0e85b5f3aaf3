"""How the exchange, the queues and the bindings come to be there."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelPreconditionFailed
from aiormq.exceptions import ChannelAccessRefused

from service.domain.errors import TopologyRefusedError
from service.rabbitmq.compatibility import (
    MOST_DIFFERENCES,
    Difference,
    Found,
    Harm,
    difference_of,
    refusal_of,
)
from service.rabbitmq.topology import Queue, Topology

Learned = tuple[str | None, Found]
"""The broker's first words about a difference, where there is one; and what is there."""


async def ensure(topology: Topology, connection: AbstractConnection) -> list[Difference]:
    """Declare what is missing and bind it; returns what is there with other arguments.

    A user without the right to configure is no obstacle where everything is there already.

    Raises:
        TopologyRefusedError: what is there would lose orders, or have them go round.
        aiormq.exceptions.ChannelAccessRefused: something is missing and may not be declared.
    """
    version = str(server_properties(connection).get("version", ""))

    def judged(kind: Literal["exchange", "queue"], name: str, learned: Learned) -> None:
        words, found = learned
        if words is None:
            return
        difference = difference_of(topology, kind, name, words, found.by(version))
        if difference.harm is Harm.REFUSED:
            raise TopologyRefusedError(refusal_of(difference))
        differences.append(difference)

    differences: list[Difference] = []
    judged("exchange", topology.exchange, await _ensure_exchange(connection, topology.exchange))
    for queue in topology.queues:
        judged("queue", queue.name, await _ensure_queue(connection, queue))
        await _ensure_binding(connection, queue, topology.exchange)
    return differences


async def restore(topology: Topology, connection: AbstractConnection) -> bool:
    """Declare and bind again what may have been deleted or unbound while we run.

    Nobody tells us of that: as long as somebody else's queue takes an event, it is confirmed.
    Returns False, and has changed nothing, where the topology is not ours to restore: without
    the right to, or with queues that are there with other arguments.
    """
    try:
        async with connection.channel(publisher_confirms=False) as channel:
            exchange = await channel.declare_exchange(
                topology.exchange, ExchangeType.TOPIC, durable=True
            )
            for each in topology.queues:
                queue = await channel.declare_queue(
                    each.name, durable=True, arguments=each.arguments
                )
                await queue.bind(exchange, routing_key=each.binding_key)
    except (ChannelAccessRefused, ChannelPreconditionFailed):
        return False
    return True


async def _ensure_exchange(connection: AbstractConnection, exchange: str) -> Learned:
    try:
        return await learn(
            lambda found: _asked(connection, declare_exchange(exchange, found)), Found()
        )
    except ChannelAccessRefused:
        # Its type is told to nobody who may not make it.
        async with connection.channel(publisher_confirms=False) as channel:
            await channel.declare_exchange(exchange, passive=True)
        return None, Found()


async def _ensure_queue(connection: AbstractConnection, queue: Queue) -> Learned:
    expected = Found(arguments=queue.arguments)
    try:
        return await learn(
            lambda found: _asked(connection, declare_queue(queue.name, found)), expected
        )
    except ChannelAccessRefused:
        async with connection.channel(publisher_confirms=False) as channel:
            await _look_at(channel, queue.name)
        return None, expected


async def _ensure_binding(connection: AbstractConnection, queue: Queue, exchange: str) -> None:
    # What is bound already needs no right to bind.
    with contextlib.suppress(ChannelAccessRefused):
        async with connection.channel(publisher_confirms=False) as channel:
            there = await channel.get_queue(queue.name, ensure=False)
            await there.bind(exchange, routing_key=queue.binding_key)


async def learn(declare: Callable[[Found], Awaitable[str | None]], expected: Found) -> Learned:
    """Declare something as expected; where it is there as something else, find out as what.

    Args:
        declare: declares it like that; returns the broker's words where it refuses for what is
            there, else None.

    Returns:
        The broker's first words, or None where all is as expected; and what there is.
    """
    found, first = expected, None
    for _ in range(MOST_DIFFERENCES):
        words = await declare(found)
        first = first or words
        if words is None or (corrected := found.corrected_by(words)) == found:
            break
        found = corrected
    return first, found


def declare_exchange(name: str, found: Found) -> Callable[[AbstractChannel], Awaitable[Any]]:
    return lambda channel: channel.declare_exchange(
        name,
        found.type,
        durable=found.durable,
        auto_delete=found.auto_delete,
        internal=found.internal,
        arguments=found.arguments,
    )


def declare_queue(name: str, found: Found) -> Callable[[AbstractChannel], Awaitable[Any]]:
    return lambda channel: channel.declare_queue(
        name, durable=found.durable, auto_delete=found.auto_delete, arguments=found.arguments
    )


def server_properties(connection: AbstractConnection) -> dict[str, Any]:
    """What the broker says of itself: product, version, cluster."""
    transport = connection.transport
    return {} if transport is None else dict(transport.connection.server_properties)


async def _asked(
    connection: AbstractConnection, declare: Callable[[AbstractChannel], Awaitable[Any]]
) -> str | None:
    """Declare on a channel of its own, which the broker closes when it refuses."""
    try:
        async with connection.channel(publisher_confirms=False) as channel:
            await declare(channel)
    except ChannelPreconditionFailed as error:
        return str(error)
    return None


async def _look_at(channel: AbstractChannel, queue: str) -> None:
    """Whether it is there is told by RabbitMQ 4 to those alone who have some right on it.

    Without one we neither read it nor need to: an event that finds no queue comes back.
    """
    with contextlib.suppress(ChannelAccessRefused):
        await channel.declare_queue(queue, passive=True)
