"""Publishing what a relay has claimed, and saying of each event what became of it.

Two ways to the same contract: RabbitMQ with confirms, and the in-process broker of the embedded
mode. A publisher raises `BrokerAwayError` where the broker as a whole is the trouble: then no event
has failed by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import DeliveryError, PublishError
from aiormq import spec
from aiormq.channel import Channel
from aiormq.exceptions import ChannelAccessRefused, ChannelClosed
from faststream.exceptions import SubscriberNotFound
from faststream.rabbit import RabbitBroker

from db.outbox import ClaimedEvent
from service.delivery import from_json
from service.errors import BrokerAwayError
from service.events import cloud_event, made_at
from service.explain import explain_broker
from service.link import LINK_FAILURES, loss_as_error
from service.topology import Topology

CLOSE_SECONDS = 2.0
PERSISTENT = 2


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The broker has it, in every queue that is bound for it."""

    event: ClaimedEvent


@dataclass(frozen=True, slots=True)
class Rejected:
    """This event was not taken, by its own fault or its route's; `reason` is for operators."""

    event: ClaimedEvent
    reason: str


@dataclass(frozen=True, slots=True)
class Deferred:
    """A queue cannot take this event now, by no fault of it: it has no leader, or is full."""

    event: ClaimedEvent
    reason: str


PublishOutcome = Confirmed | Deferred | Rejected


class Publisher(Protocol):
    """Publishes a batch; answers for each event, in the order given."""

    async def publish(self, events: Sequence[ClaimedEvent]) -> list[PublishOutcome]: ...

    async def close(self) -> None: ...


class ConfirmingPublisher:
    """RabbitMQ, on a connection of its own: an alarm blocks publishing and must not block acks."""

    def __init__(
        self,
        url: str,
        topology: Topology,
        *,
        tls: ssl.SSLContext | None,
        connect_timeout_seconds: float,
        heartbeat_seconds: int,
        publish_timeout_seconds: float,
    ) -> None:
        self._url = url
        self._topology = topology
        self._tls = tls
        self._connect_timeout = connect_timeout_seconds
        self._heartbeat = heartbeat_seconds
        self._publish_timeout = publish_timeout_seconds
        self._connection: AbstractConnection | None = None
        self._channel: AbstractChannel | None = None

    async def publish(self, events: Sequence[ClaimedEvent]) -> list[PublishOutcome]:
        """Publish all at once and wait for their confirms, `publish_timeout_seconds` at most.

        Raises:
            BrokerAwayError: no link, or no confirm in time; what was confirmed until then is not
                known to the caller and will be published again, under the same message id.
        """
        try:
            async with asyncio.timeout(self._publish_timeout):
                with loss_as_error():
                    return await self._publish_and_mend(events)
        except LINK_FAILURES as error:
            await self.close()
            raise BrokerAwayError(explain_broker(error)) from error
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        connection, self._connection, self._channel = self._connection, None, None
        if connection is not None:
            # Lost already, perhaps, and that is what we wanted.
            with contextlib.suppress(*LINK_FAILURES):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await connection.close()

    async def _publish_and_mend(self, events: Sequence[ClaimedEvent]) -> list[PublishOutcome]:
        try:
            outcomes = await self._publish_together(events)
        except ChannelClosed:
            # One event's fault closed the channel for all: whose, each alone will tell.
            # For what was on its way there the broker closes the connection too.
            await self.close()
            outcomes = [await self._publish_alone(event) for event in events]
        if any(isinstance(outcome, Rejected) for outcome in outcomes):
            await self._mend_topology()
        if any(isinstance(outcome, Deferred) for outcome in outcomes):
            # RabbitMQ may refuse all that follows on a channel whose first message to a queue came
            # between two leaders.
            await self.close()
        return outcomes

    async def _publish_together(self, events: Sequence[ClaimedEvent]) -> list[PublishOutcome]:
        channel = await self._open()
        results = await asyncio.gather(
            *(self._publish_one(channel, event) for event in events), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return [result for result in results if not isinstance(result, BaseException)]

    async def _publish_alone(self, event: ClaimedEvent) -> PublishOutcome:
        try:
            return await self._publish_one(await self._open(), event)
        except ChannelAccessRefused:
            raise  # a right that was taken away is no fault of the event
        except ChannelClosed as error:
            return Rejected(event, explain_broker(error))

    async def _publish_one(self, channel: Channel, event: ClaimedEvent) -> PublishOutcome:
        try:
            await channel.basic_publish(
                event.payload,
                exchange=event.exchange,
                routing_key=event.routing_key,
                properties=spec.Basic.Properties(
                    message_type=event.event_type, **properties_of(event)
                ),
                mandatory=True,
                # Waiting for each to be written would have them go one after the other, each after
                # some turns of the event loop; that the last one is written, its confirm says.
                wait=False,
            )
        except PublishError as error:
            return Rejected(event, f"no queue takes it: {error}")
        except DeliveryError:
            return Deferred(event, "a queue takes nothing now: it has no leader, or is full")
        except (TypeError, ValueError, ArithmeticError, struct.error) as error:
            return Rejected(event, f"it cannot be encoded: {type(error).__name__}")
        return Confirmed(event)

    async def _open(self) -> Channel:
        if self._connection is None or self._connection.is_closed:
            self._connection = await aio_pika.connect(
                self._url,
                ssl_context=self._tls,
                timeout=self._connect_timeout,
                heartbeat=self._heartbeat,
                client_properties={"connection_name": "orders relay"},
            )
            self._channel = None
        if self._channel is None or self._channel.is_closed:
            self._channel = await self._connection.channel(on_return_raises=True)
        return cast("Channel", await self._channel.get_underlay_channel())

    async def _mend_topology(self) -> None:
        """What was not routed may lack its queue or binding, deleted while we ran.

        Where mending fails, the events are retried in any case, and the next failure mends again.
        """
        if self._connection is not None and not self._connection.is_closed:
            with contextlib.suppress(*LINK_FAILURES):
                await self._topology.ensure(self._connection)


class InProcessPublisher:
    """The embedded mode's broker: delivered to whoever subscribes in this process, or to nobody."""

    def __init__(self, broker: RabbitBroker) -> None:
        self._broker = broker

    async def publish(self, events: Sequence[ClaimedEvent]) -> list[PublishOutcome]:
        for event in events:
            # Nobody listens to a topic, or whoever does cannot read a dead letter's body, which may
            # be anything: no fault of the event.
            with contextlib.suppress(SubscriberNotFound, ValueError):
                message = aio_pika.Message(
                    event.payload, type=event.event_type, **properties_of(event)
                )
                await self._broker.publish(
                    message, exchange=event.exchange, routing_key=event.routing_key
                )
        return [Confirmed(event) for event in events]

    async def close(self) -> None:
        """Nothing is open."""


def properties_of(event: ClaimedEvent) -> dict[str, Any]:
    """What travels beside an event's payload: the same each time it is published."""
    return {
        "headers": cloud_event(event) | from_json(event.headers),
        "content_type": event.content_type,
        "correlation_id": event.correlation_id,
        "message_id": event.event_id,
        "timestamp": made_at(event.event_id),
        "delivery_mode": PERSISTENT,
        "app_id": "order-service",
    }
