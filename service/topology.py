"""Exchange, queues and bindings, and how they come to be there.

Missing queues are declared durable and quorum. A queue that is there with other arguments is used
as it is: it belongs to somebody who had reasons; what is lost by it is said once, in a warning.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import ChannelPreconditionFailed
from aiormq.exceptions import ChannelAccessRefused

from service.settings import Settings

PROCESSED_KEY = "order.processed"
FAILED_KEY = "order.failed"
CREATED_KEY = "order.created"
DEAD_LETTER_KEY = "order.dead_letter"


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as this service would declare it, and the key that binds it to the exchange."""

    name: str
    binding_key: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A queue that is there with other arguments than this service would give it."""

    queue: str
    difference: str
    """The broker's own words; it names the first difference only."""
    quorum: bool


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

    def what_is_lost(self, mismatch: Mismatch) -> str:
        """What this service promises of its queues and cannot where this one differs."""
        lost = []
        if "durable" in mismatch.difference:
            lost.append("it is gone, and all its messages, whenever the broker restarts")
        if not mismatch.quorum:
            lost.append("its messages are not replicated: a broker that is lost takes them along")
        if mismatch.queue == self.incoming.name:
            lost.append(
                "a message that kills its process each time is not moved to "
                f"{self.dead_letters.name} after {self.incoming.arguments['x-delivery-limit']} "
                "deliveries, unless a policy of the broker does it"
            )
        if not lost:
            lost.append("nothing that this service promises, beyond what those arguments take away")
        return "; ".join(lost)

    async def ensure(self, connection: AbstractConnection) -> list[Mismatch]:
        """Declare what is missing and bind it; returns what is there with other arguments.

        A user without the right to configure is no obstacle where everything is there already.

        Raises:
            aiormq.exceptions.ChannelAccessRefused: something is missing and may not be declared.
        """
        await _either(
            connection,
            lambda channel: channel.declare_exchange(
                self.exchange, ExchangeType.TOPIC, durable=True
            ),
            lambda channel: channel.declare_exchange(self.exchange, passive=True),
        )
        mismatches = [await self._ensure_queue(connection, queue) for queue in self.queues]
        return [mismatch for mismatch in mismatches if mismatch is not None]

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

    async def _ensure_queue(self, connection: AbstractConnection, queue: Queue) -> Mismatch | None:
        difference = await _either(
            connection,
            lambda channel: channel.declare_queue(
                queue.name, durable=True, arguments=queue.arguments
            ),
            lambda channel: _look_at(channel, queue.name),
        )

        async def bind(channel: AbstractChannel) -> None:
            there = await channel.get_queue(queue.name, ensure=False)
            await there.bind(self.exchange, routing_key=queue.binding_key)

        await _either(connection, bind, _nothing)
        if difference is None:
            return None
        other_type = await _either(
            connection,
            lambda channel: channel.declare_queue(
                queue.name, durable=True, arguments={"x-queue-type": "quorum"}
            ),
            _nothing,
        )
        # A queue that is not durable is named for that first, and it cannot be a quorum queue.
        classic = any(word in (other_type or "") for word in ("x-queue-type", "durable"))
        return Mismatch(queue.name, difference, quorum=not classic)


async def _either(
    connection: AbstractConnection,
    preferred: Callable[[AbstractChannel], Awaitable[Any]],
    fallback: Callable[[AbstractChannel], Awaitable[Any]],
) -> str | None:
    """Do the preferred thing or, refused for what is there already or for rights, the fallback.

    Each on a channel of its own: the broker closes a channel on which it refuses something.
    Returns the broker's words where it refused for what is there.
    """
    try:
        async with connection.channel(publisher_confirms=False) as channel:
            await preferred(channel)
    except ChannelPreconditionFailed as error:
        difference: str | None = str(error)
    except ChannelAccessRefused:
        difference = None
    else:
        return None
    async with connection.channel(publisher_confirms=False) as channel:
        await fallback(channel)
    return difference


async def _look_at(channel: AbstractChannel, queue: str) -> None:
    """Whether it is there is told by RabbitMQ 4 to those alone who have some right on it.

    Without one we neither read it nor need to: an event that finds no queue comes back.
    """
    with contextlib.suppress(ChannelAccessRefused):
        await channel.declare_queue(queue, passive=True)


async def _nothing(_: AbstractChannel) -> None:
    """What is bound already needs no right to bind."""
