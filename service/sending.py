"""Publishing OrderCreated messages from lines of JSON, with confirms."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import IO, cast

import aio_pika
from aio_pika.abc import AbstractExchange
from aio_pika.exceptions import DeliveryError, PublishError

from service.codec import decode
from service.errors import BrokerAwayError, Refusal
from service.events import new_id
from service.explain import explain_broker
from service.link import LINK_FAILURES, loss_as_error
from service.settings import Settings

GZIP_MAGIC = b"\x1f\x8b"
IN_FLIGHT = 500
SAMPLES = files("service.samples") / "online-retail-sample.jsonl.gz"


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

    @property
    def total(self) -> int:
        return self.confirmed + self.refused_locally + self.unroutable + self.rejected


def read_lines(source: str) -> Iterator[bytes]:
    """The lines of a file, plain or gzipped, or of standard input for `-`; empty ones left out."""
    with _open(source) as stream:
        for line in stream:
            if stripped := line.strip():
                yield stripped


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
    settings: Settings, lines: Iterable[bytes], progress: Callable[[Sent], None]
) -> Sent:
    """Publish each line to the incoming queue and wait for the broker's confirm of each.

    A line that is no JSON object is refused here: it cannot be an order, and is more likely a wrong
    file. Everything else is sent; whether it is a valid order, the service decides.

    Raises:
        BrokerAwayError: the link could not be made or was lost. Sending the same file again is
            safe: orders that arrived are recognised by their idempotency keys.
    """
    sent = Sent()
    slots = asyncio.Semaphore(IN_FLIGHT)
    try:
        async with AsyncExitStack() as stack:
            with loss_as_error():
                connection = await aio_pika.connect(
                    settings.broker,
                    timeout=settings.mq_connect_timeout_seconds,
                    ssl_context=settings.broker_tls(),
                )
            await stack.enter_async_context(connection)
            channel = await connection.channel(on_return_raises=True)

            async def publish(line: bytes) -> None:
                try:
                    async with asyncio.timeout(settings.publish_timeout_seconds):
                        # A cancelled task would end its group without an error.
                        with loss_as_error():
                            await _publish(channel.default_exchange, line, settings, sent)
                finally:
                    slots.release()
                progress(sent)

            async with asyncio.TaskGroup() as tasks:
                for number, line in enumerate(lines, 1):
                    if why := _refusal(line):
                        sent.refused_locally += 1
                        sent.refusals = [*sent.refusals, f"line {number}: {why}"][:5]
                        progress(sent)
                        continue
                    await slots.acquire()
                    tasks.create_task(publish(line))
    except* LINK_FAILURES as errors:
        error = errors.exceptions[0]
        raise BrokerAwayError(explain_broker(error)) from error
    return sent


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
    try:
        value = decode(line)
    except Refusal as refusal:
        return refusal.details
    return None if isinstance(value, dict) else "not a JSON object"


def _open(source: str) -> IO[bytes]:
    opened = sys.stdin.buffer if source == "-" else Path(source).open("rb")  # noqa: SIM115
    stream = cast("io.BufferedReader", opened)
    if stream.peek(len(GZIP_MAGIC)).startswith(GZIP_MAGIC):
        return cast("IO[bytes]", gzip.open(stream))
    return stream
