"""Exchange, queues and bindings, and how they come to be there.

Missing queues are declared durable and quorum. What is there with other arguments is used as it is:
it belongs to somebody who had reasons; what is lost by it is said once, in a warning. Refused is
what would lose orders or have them go round (`service.surroundings`), before anything is bound.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelPreconditionFailed
from aiormq.exceptions import ChannelAccessRefused

from service.errors import TopologyRefusedError
from service.settings import Settings
from service.surroundings import (
    MOST_DIFFERENCES,
    Effect,
    Found,
    Harm,
    exchange_effects,
    queue_effects,
)

PROCESSED_KEY = "order.processed"
FAILED_KEY = "order.failed"
CREATED_KEY = "order.created"
DEAD_LETTER_KEY = "order.dead_letter"

# Under this name a service consumes; behind it stands its database, which tells it from others.
CONSUMER_NAME = "orders consumer of "

Learned = tuple[str | None, Found]
"""The broker's first words about a difference, where there is one; and what is there."""


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as this service would declare it, and the key that binds it to the exchange."""

    name: str
    binding_key: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Difference:
    """An exchange or a queue that is there, other than this service would make it."""

    kind: Literal["exchange", "queue"]
    name: str
    words: str
    """The broker's own; they name the first difference only."""
    found: Found
    effects: Sequence[Effect]

    @property
    def harm(self) -> Harm:
        return max((each.harm for each in self.effects), default=Harm.LESS)

    @property
    def lost(self) -> str:
        """What this service promises and cannot where this one differs."""
        nothing = "nothing that this service promises, beyond what those arguments take away"
        return "; ".join(each.text for each in self.effects) or nothing


@dataclass(frozen=True, slots=True)
class Topology:
    """Names and arguments of everything this service needs at the broker."""

    exchange: str
    incoming: Queue
    processed: Queue
    failed: Queue
    dead_letters: Queue
    processed_key: str = PROCESSED_KEY
    failed_key: str = FAILED_KEY
    dead_letter_key: str = DEAD_LETTER_KEY

    @classmethod
    def of(cls, settings: Settings) -> Topology:
        quorum = {"x-queue-type": "quorum"}
        crash_loops = {
            # A message whose handler dies each time is moved aside after this many deliveries,
            # and that move is itself safe: kept until the dead-letter queue has confirmed it.
            "x-delivery-limit": settings.delivery_limit,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": settings.dlq_queue,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        return cls(
            exchange=settings.events_exchange,
            incoming=Queue(settings.incoming_order_queue, CREATED_KEY, quorum | crash_loops),
            processed=Queue(settings.outgoing_processed_queue, PROCESSED_KEY, quorum),
            failed=Queue(settings.outgoing_failed_queue, FAILED_KEY, quorum),
            dead_letters=Queue(settings.dlq_queue, DEAD_LETTER_KEY, quorum),
        )

    @property
    def queues(self) -> tuple[Queue, ...]:
        # The dead-letter queue first: the incoming queue's dead-lettering points at it.
        return (self.dead_letters, self.processed, self.failed, self.incoming)

    def difference(
        self, kind: Literal["exchange", "queue"], name: str, words: str, found: Found
    ) -> Difference:
        """What follows from what was found under a name of ours."""
        effects = (
            exchange_effects(found) if kind == "exchange" else queue_effects(self, name, found)
        )
        return Difference(kind, name, words, found, effects)

    def refusal(self, difference: Difference) -> str:
        """Why the service does not start with it: what is there, what is needed, what to do."""
        name, found = difference.name, difference.found
        why = next(each.text for each in difference.effects if each.harm is Harm.REFUSED)
        if difference.kind == "exchange":
            there = f"{_article(found.type)} exchange{', internal' if found.internal else ''}"
            needed, setting = "a topic exchange", "EVENTS_EXCHANGE"
        else:
            there = _article(found.queue_type)
            there += "" if found.queue_type == "stream" else " queue"
            there += "" if found.durable else ", not durable"
            there += ", deleted when unused" if found.auto_delete else ""
            needed, setting = "a durable quorum queue", "INCOMING_ORDER_QUEUE"
        return (
            f"the {difference.kind} {name} is there as {there}, and {needed} is needed ({why}): "
            f"delete it, and the service makes it, or set {setting} to another name"
        )

    async def ensure(self, connection: AbstractConnection) -> list[Difference]:
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
            difference = self.difference(kind, name, words, found.by(version))
            if difference.harm is Harm.REFUSED:
                raise TopologyRefusedError(self.refusal(difference))
            differences.append(difference)

        differences: list[Difference] = []
        judged("exchange", self.exchange, await self._ensure_exchange(connection))
        for queue in self.queues:
            judged("queue", queue.name, await self._ensure_queue(connection, queue))
            await self._ensure_binding(connection, queue)
        return differences

    async def restore(self, connection: AbstractConnection) -> bool:
        """Declare and bind again what may have been deleted or unbound while we run.

        Nobody tells us of that: as long as somebody else's queue takes an event, it is confirmed.
        Returns False, and has changed nothing, where the topology is not ours to restore: without
        the right to, or with queues that are there with other arguments.
        """
        try:
            async with connection.channel(publisher_confirms=False) as channel:
                exchange = await channel.declare_exchange(
                    self.exchange, ExchangeType.TOPIC, durable=True
                )
                for each in self.queues:
                    queue = await channel.declare_queue(
                        each.name, durable=True, arguments=each.arguments
                    )
                    await queue.bind(exchange, routing_key=each.binding_key)
        except (ChannelAccessRefused, ChannelPreconditionFailed):
            return False
        return True

    async def _ensure_exchange(self, connection: AbstractConnection) -> Learned:
        try:
            return await learn(
                lambda found: _asked(connection, declare_exchange(self.exchange, found)), Found()
            )
        except ChannelAccessRefused:
            # Its type is told to nobody who may not make it.
            async with connection.channel(publisher_confirms=False) as channel:
                await channel.declare_exchange(self.exchange, passive=True)
            return None, Found()

    async def _ensure_queue(self, connection: AbstractConnection, queue: Queue) -> Learned:
        expected = Found(arguments=queue.arguments)
        try:
            return await learn(
                lambda found: _asked(connection, declare_queue(queue.name, found)), expected
            )
        except ChannelAccessRefused:
            async with connection.channel(publisher_confirms=False) as channel:
                await _look_at(channel, queue.name)
            return None, expected

    async def _ensure_binding(self, connection: AbstractConnection, queue: Queue) -> None:
        # What is bound already needs no right to bind.
        with contextlib.suppress(ChannelAccessRefused):
            async with connection.channel(publisher_confirms=False) as channel:
                there = await channel.get_queue(queue.name, ensure=False)
                await there.bind(self.exchange, routing_key=queue.binding_key)


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


def _article(kind: str) -> str:
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"


async def _look_at(channel: AbstractChannel, queue: str) -> None:
    """Whether it is there is told by RabbitMQ 4 to those alone who have some right on it.

    Without one we neither read it nor need to: an event that finds no queue comes back.
    """
    with contextlib.suppress(ChannelAccessRefused):
        await channel.declare_queue(queue, passive=True)
