"""Publishing OrderCreated messages from lines of JSON, with confirms."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractExchange
from aio_pika.exceptions import DeliveryError, PublishError

from service.config.settings import Settings
from service.consumer.codec import decode
from service.domain.errors import BrokerAwayError, OrderServiceError, Refusal
from service.driver_errors import explain_broker
from service.input_lines import MAX_LINE_BYTES, UNREADABLE, Line, read_aside, why_unreadable
from service.outbox.envelope import new_id
from service.rabbitmq.connection import LINK_FAILURES, loss_as_error

BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "UTF-8 without one",
    b"\xff\xfe": "UTF-8",
    b"\xfe\xff": "UTF-8",
}
IN_FLIGHT = 500
MAX_REFUSALS = 5
CLOSE_SECONDS = 3.0
SAMPLES = files("service.samples") / "online-retail-sample.jsonl.gz"


class SourceError(OrderServiceError):
    """The lines to send cannot be read; the message says why."""


@dataclass(slots=True)
class Sent:
    """What became of the lines, in messages."""

    confirmed: int = 0
    refused_locally: int = 0
    unroutable: int = 0
    rejected: int = 0
    """By the broker: a full queue, or one that cannot store."""
    refusals: list[str] = field(default_factory=list)
    """The first few local refusals: line number and why."""
    unsettled: int = 0
    """On their way: where it ended too early, they may have arrived or not."""

    def refuse(self, number: int, why: str) -> None:
        self.refused_locally += 1
        if len(self.refusals) < MAX_REFUSALS:
            self.refusals.append(f"line {number}: {why}")

    @property
    def total(self) -> int:
        return self.confirmed + self.refused_locally + self.unroutable + self.rejected


def sample_lines(count: int, *, seed: int | None = None) -> Iterator[bytes]:
    """Plausible orders: real invoices from the project's example file under new ids and keys."""
    rng = random.Random(seed)  # noqa: S311 - plausible, not secret
    with SAMPLES.open("rb") as packed, gzip.open(packed) as stream:
        orders = [json.loads(line, parse_float=str) for line in stream]
    run = new_id()
    for number in range(1, count + 1):
        order = rng.choice(orders)
        order |= {"orderId": f"sample-{run}-{number}", "idempotencyKey": f"key-{run}-{number}"}
        yield json.dumps(order, ensure_ascii=False).encode()


async def send(
    settings: Settings, lines: Iterator[Line], sent: Sent, progress: Callable[[], None]
) -> None:
    """Publish each line to the incoming queue and wait for the broker's confirm of each.

    A line that is no JSON object is refused here: it cannot be an order, and is more likely a wrong
    file. Everything else is sent; whether it is a valid order, the service decides.

    Args:
        sent: counts what became of them, also where this ends with an error.
        progress: called when that has changed.

    Raises:
        BrokerAwayError: the link could not be made or was lost. Sending the same file again is
            safe: orders that arrived are recognised by their idempotency keys.
        SourceError: the lines cannot be read; those before are sent.
    """
    slots = asyncio.Semaphore(IN_FLIGHT)
    unreadable: Exception | None = None
    try:
        async with _channel(settings) as channel:

            async def publish(line: bytes) -> None:
                try:
                    async with asyncio.timeout(settings.publish_timeout_seconds):
                        # A cancelled task would end its group without an error.
                        with loss_as_error():
                            await _publish(channel.default_exchange, line, settings, sent)
                finally:
                    slots.release()
                sent.unsettled -= 1
                progress()

            async with asyncio.TaskGroup() as tasks:
                try:
                    async for number, line in read_aside(lines):
                        if refusal := _refusal(line):
                            sent.refuse(number, refusal)
                            progress()
                            continue
                        await slots.acquire()
                        sent.unsettled += 1
                        tasks.create_task(publish(line))
                except UNREADABLE as why:
                    unreadable = why
    except* LINK_FAILURES as errors:
        error = errors.exceptions[0]
        raise BrokerAwayError(explain_broker(error)) from error
    if unreadable is not None:
        raise SourceError(why_unreadable(unreadable)) from unreadable


@asynccontextmanager
async def _channel(settings: Settings) -> AsyncIterator[AbstractChannel]:
    """A confirming channel on a link of its own; making and closing it have deadlines."""
    with loss_as_error():
        connection = await aio_pika.connect(
            settings.broker,
            timeout=settings.mq_connect_timeout_seconds,
            ssl_context=settings.broker_tls(),
        )
    try:
        async with asyncio.timeout(settings.mq_connect_timeout_seconds):
            with loss_as_error():
                channel = await connection.channel(on_return_raises=True)
        yield channel
    finally:
        with contextlib.suppress(*LINK_FAILURES):
            async with asyncio.timeout(CLOSE_SECONDS):
                await connection.close()


async def _publish(exchange: AbstractExchange, line: bytes, settings: Settings, sent: Sent) -> None:
    message = aio_pika.Message(
        line,
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=new_id(),
        type="OrderCreated",
        app_id="orders-send",
    )
    try:
        await exchange.publish(message, settings.incoming_order_queue, mandatory=True)
    except PublishError:
        sent.unroutable += 1
    except DeliveryError:
        sent.rejected += 1
    else:
        sent.confirmed += 1


def _refusal(line: bytes) -> str | None:
    if len(line) > MAX_LINE_BYTES:
        return f"longer than {MAX_LINE_BYTES >> 20} MiB, the most that RabbitMQ takes"
    for mark, words in BYTE_ORDER_MARKS.items():
        if line.startswith(mark):
            return f"begins with a byte order mark (BOM): save the file as {words}"
    try:
        value = decode(line)
    except Refusal as refusal:
        return refusal.details
    return None if isinstance(value, dict) else "not a JSON object"
