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
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, cast

import aio_pika
from aio_pika.abc import AbstractChannel
from aio_pika.exceptions import DeliveryError, PublishError
from aiormq import spec
from aiormq.channel import Channel
from aiormq.exceptions import ChannelAccessRefused, ChannelClosed
from faststream.exceptions import SubscriberNotFound
from faststream.rabbit import RabbitBroker

from db.outbox import ClaimedEvent
from service.domain.errors import BrokerAwayError, TopologyRefusedError
from service.driver_errors import explain_broker
from service.outbox.envelope import OWN_HEADERS, cloud_event, made_at
from service.rabbitmq import declaration
from service.rabbitmq.connection import LINK_FAILURES, Link, loss_as_error
from service.rabbitmq.delivery import (
    HEADERS_TOO_LARGE,
    MAX_HEADER_BYTES,
    MAX_STORED_BYTES,
    from_json,
)
from service.rabbitmq.origin import APP_ID
from service.rabbitmq.topology import Topology

PERSISTENT = 2
# A content header has these bytes before its properties (AMQP 0-9-1, 2.3.5.2).
CONTENT_HEADER_BYTES = 12
# What an event has beside its sender's headers: our own headers and short strings.
OTHER_PROPERTY_BYTES = 8 * 1024
MAX_SLOW = 1000


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
    """This event cannot be taken now, by no fault of it; `times` in a row so far.

    Its queue has no leader or is full, or the link is too narrow for it.
    """

    event: ClaimedEvent
    reason: str
    times: int = 1


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
        publish_timeout_seconds: float,
    ) -> None:
        self._url = url
        self._topology = topology
        self._tls = tls
        self._connect_timeout = connect_timeout_seconds
        self._publish_timeout = publish_timeout_seconds
        self._link: Link | None = None
        self._channel: AbstractChannel | None = None
        self._slow: dict[str, int] = {}
        """How often in a row these events did not get through, the latest last."""

    async def publish(self, events: Sequence[ClaimedEvent]) -> list[PublishOutcome]:
        """Publish all at once and wait for their confirms.

        Gives up when none has come for `publish_timeout_seconds`, however many there are; for a
        body over 1 MiB in proportion longer. So the narrowest link that is served takes 1 MiB in
        that time. An event that did not get through alone, while the broker answers, is deferred.

        Raises:
            BrokerAwayError: the link is lost, or confirms stopped coming. Its `outcomes` are those
                known by then; the others are to be published again, under the same message id.
        """
        known: dict[str, PublishOutcome] = {}
        largest = max((len(event.payload) for event in events), default=0)
        seconds = self._publish_timeout * max(1.0, largest / MAX_STORED_BYTES)
        try:
            async with patience(seconds) as progress:
                with loss_as_error():
                    return await self._publish_and_mend(events, known, progress)
        except LINK_FAILURES as error:
            await self.close()
            timed_out = isinstance(error, TimeoutError)
            if timed_out and len(events) == 1 and not known and await self._answers():
                return [self._too_slow(events[0], seconds)]
            raise BrokerAwayError(
                explain_broker(error), outcomes=list(known.values()), timed_out=timed_out
            ) from error
        except asyncio.CancelledError:
            await self.close()
            raise

    async def close(self) -> None:
        """Leave the link for good; the next publication opens another one."""
        link, self._link, self._channel = self._link, None, None
        if link is not None:
            await link.end()

    async def _answers(self) -> bool:
        """Whether the broker lets us in and answers, on a new link."""
        try:
            async with asyncio.timeout(self._connect_timeout):
                with loss_as_error():
                    await self._open()
        except LINK_FAILURES:
            await self.close()
            return False
        return True

    def _too_slow(self, event: ClaimedEvent, seconds: float) -> Deferred:
        times = self._slow.pop(event.event_id, 0) + 1
        self._slow[event.event_id] = times
        if len(self._slow) > MAX_SLOW:
            del self._slow[next(iter(self._slow))]
        size = len(event.payload)
        return Deferred(
            event, f"its {size:,} bytes had no confirm in {seconds:g} s: a narrow link?", times
        )

    async def _publish_and_mend(
        self,
        events: Sequence[ClaimedEvent],
        known: dict[str, PublishOutcome],
        progress: Callable[[], None],
    ) -> list[PublishOutcome]:
        async def publish(channel: Channel, event: ClaimedEvent) -> None:
            known[event.event_id] = await self._publish_one(channel, event)
            progress()

        try:
            await self._publish_together(events, publish)
        except ChannelClosed:
            # One event's fault closed the channel for all: whose, each alone will tell.
            # For what was on its way there the broker closes the connection too.
            await self.close()
            for event in events:
                if event.event_id not in known:
                    known[event.event_id] = await self._publish_alone(event)
                    progress()
        outcomes = [known[event.event_id] for event in events]
        if any(isinstance(outcome, Rejected) for outcome in outcomes):
            await self._mend_topology()
        if any(isinstance(outcome, Deferred) for outcome in outcomes):
            # RabbitMQ may refuse all that follows on a channel whose first message to a queue came
            # between two leaders.
            await self.close()
        return outcomes

    async def _publish_together(
        self,
        events: Sequence[ClaimedEvent],
        publish: Callable[[Channel, ClaimedEvent], Awaitable[None]],
    ) -> None:
        channel = await self._open()
        results = await asyncio.gather(
            *(publish(channel, event) for event in events), return_exceptions=True
        )
        for result in results:
            if result is not None:
                raise result

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
                properties=_fitting_properties(event, channel.max_content_size),
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
        if self._link is None or self._link.is_closed:
            self._link = await Link.open(
                self._url,
                tls=self._tls,
                timeout_seconds=self._connect_timeout,
            )
            self._channel = None
        if self._channel is None or self._channel.is_closed:
            self._channel = await self._link.channel(on_return_raises=True)
        return cast("Channel", await self._channel.get_underlay_channel())

    async def _mend_topology(self) -> None:
        """What was not routed may lack its queue or binding, deleted while we ran.

        Where mending fails, the events are retried in any case, and the next failure mends again.
        """
        if self._link is not None and not self._link.is_closed:
            with contextlib.suppress(*LINK_FAILURES, TopologyRefusedError):
                await declaration.ensure(self._topology, self._link)


@asynccontextmanager
async def patience(seconds: float) -> AsyncIterator[Callable[[], None]]:
    """A deadline that is put off by each call of what this yields.

    Raises:
        TimeoutError: nothing has moved for `seconds`.
    """
    loop = asyncio.get_running_loop()
    last = loop.time()
    async with asyncio.timeout(seconds) as deadline:

        def progress() -> None:
            nonlocal last
            now = loop.time()
            # Not for each of a hundred confirms that come together.
            if now - last > seconds / 20:
                last = now
                deadline.reschedule(now + seconds)

        yield progress


class InProcessPublisher:
    """The embedded mode's broker: delivered to whoever subscribes in this process, or to nobody."""

    def __init__(self, broker: RabbitBroker) -> None:
        self._broker = broker

    async def publish(self, events: Sequence[ClaimedEvent]) -> list[PublishOutcome]:
        for event in events:
            # A topic without a subscriber, or a dead letter's body that the subscriber's decoder
            # cannot read, which may be anything: no fault of the event.
            with contextlib.suppress(SubscriberNotFound, ValueError, RecursionError):
                message = aio_pika.Message(
                    event.payload, type=event.event_type, **properties_of(event)
                )
                await self._broker.publish(
                    message, exchange=event.exchange, routing_key=event.routing_key
                )
        return [Confirmed(event) for event in events]

    async def close(self) -> None:
        """Nothing is open."""


def _fitting_properties(event: ClaimedEvent, frame_bytes: int) -> spec.Basic.Properties:
    """The properties of an event, without its sender's headers where a frame takes no more.

    Properties must fit into one frame: a broker closes the connection over a larger one. The
    headers that we store fit into `frame_bytes` unless the broker has a smaller `frame_max` than
    RabbitMQ's default.
    """
    properties = properties_of(event)
    found = spec.Basic.Properties(message_type=event.event_type, **properties)
    if frame_bytes > MAX_HEADER_BYTES + OTHER_PROPERTY_BYTES:
        return found
    if len(found.marshal()) + CONTENT_HEADER_BYTES <= frame_bytes:
        return found
    headers = properties["headers"]
    ours = cloud_event(event) | {name: headers[name] for name in OWN_HEADERS if name in headers}
    properties["headers"] = ours | {"x-original-headers": HEADERS_TOO_LARGE}
    return spec.Basic.Properties(message_type=event.event_type, **properties)


def properties_of(event: ClaimedEvent) -> dict[str, Any]:
    """What travels beside an event's payload: the same each time it is published."""
    return {
        "headers": from_json(event.headers) | cloud_event(event),
        "content_type": event.content_type,
        "correlation_id": event.correlation_id,
        "message_id": event.event_id,
        "timestamp": made_at(event.event_id),
        "delivery_mode": PERSISTENT,
        "app_id": APP_ID,
    }
