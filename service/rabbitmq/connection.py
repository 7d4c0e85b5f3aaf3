"""One link to the broker: how it is opened, how it ends, and how its loss shows.

A link is used once. Nothing in it reconnects, and whatever opens it ends it: gracefully where the
broker answers in time, and by dropping the socket where it does not. After `end()` no delivery can
come in over it and no frame can leave.

Answers come behind whatever was delivered before them, which may be gigabytes: what is asked on a
link that consumes is awaited as long as deliveries come (`answered()`).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
import time
from collections.abc import Coroutine, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar
from weakref import WeakKeyDictionary

import aio_pika
from aio_pika.abc import AbstractExchange, AbstractQueue
from aio_pika.exceptions import AMQPError
from aiormq.abc import AbstractConnection
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
from yarl import URL

# aiormq says with a RuntimeError that a channel or connection is gone, and with the last where a
# load balancer without a node behind it accepts and hangs up.
LINK_FAILURES = (AMQPError, OSError, TimeoutError, RuntimeError, StopAsyncIteration)

CLOSE_SECONDS = 3.0
DROPPED_SECONDS = 1.0

T = TypeVar("T")


class LinkLostError(ConnectionError):
    """The link was lost while something waited for an answer on it."""


class _Socket(TransportFactory):
    """Opens the socket of one link and keeps a hand on it."""

    def __init__(self, url: URL) -> None:
        self._factory = TLSTransportFactory() if url.scheme == "amqps" else TCPTransportFactory()
        self._writer: asyncio.StreamWriter | None = None

    async def create(
        self, url: URL, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, self._writer = await self._factory.create(url, **options)
        return reader, self._writer

    def drop(self) -> None:
        """Close it at once; what is still to be sent is discarded."""
        if self._writer is not None:
            self._writer.transport.abort()


class _Channel(aio_pika.Channel):
    """A channel that restores nothing; FastStream passes `robust`, which asks for one that does."""

    async def declare_queue(
        self, name: str | None = None, *, robust: bool = False, **options: Any
    ) -> AbstractQueue:
        return await super().declare_queue(name, **options)

    async def declare_exchange(
        self, name: str, *arguments: Any, robust: bool = False, **options: Any
    ) -> AbstractExchange:
        return await super().declare_exchange(name, *arguments, **options)


class Link(aio_pika.Connection):
    """A connection that is lost for good when it is lost. Open one with `Link.open()`."""

    CHANNEL_CLASS = _Channel

    def __init__(self, url: URL, **options: Any) -> None:
        super().__init__(url, **options)
        self._socket = _Socket(url)
        self.kwargs["transport_factory"] = self._socket

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        tls: ssl.SSLContext | None,
        timeout_seconds: float,
    ) -> Self:
        """A link that is open.

        Args:
            url: AMQP URL, password included; its query may have `heartbeat` (seconds) and `name`.
            tls: what to trust; None for plain text.
            timeout_seconds: deadline for the socket and the handshake together.

        Raises:
            one of `LINK_FAILURES`: it could not be opened; no socket of it is left.
        """
        link = cls(URL(url), ssl_context=tls)
        try:
            await link.connect(timeout=timeout_seconds)
        except BaseException:
            link._socket.drop()
            raise
        return link

    async def end(self, within_seconds: float | None = None) -> None:
        """Close it; then its socket is gone, whatever the broker did.

        Args:
            within_seconds: how long the broker may take to answer; `CLOSE_SECONDS` where not given.

        Raises:
            asyncio.CancelledError: the caller is cancelled; the socket is gone all the same.
        """
        # In a task of its own: the client waits for the peer even while it is cancelled.
        closing = asyncio.create_task(self.close())
        closing.add_done_callback(retrieve)
        seconds = CLOSE_SECONDS if within_seconds is None else within_seconds
        try:
            await asyncio.wait([closing], timeout=seconds)
        finally:
            self._socket.drop()
        # Without a socket there is nothing left to wait for.
        await asyncio.wait([closing], timeout=DROPPED_SECONDS)

    async def answered(self, question: Coroutine[Any, Any, T], *, within_seconds: float) -> T:
        """The answer to a question asked over this link; see `answered()`."""
        if self.transport is None:
            question.close()
            raise LinkLostError
        return await answered(self.transport.connection, question, within_seconds=within_seconds)

    def delivered_within(self, seconds: float) -> bool:
        """Whether a message came over this link in the last `seconds`."""
        if self.transport is None:
            return False
        last = _last_delivery.get(self.transport.connection, -math.inf)
        return time.monotonic() - last < seconds

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.end()


def note_delivery(connection: AbstractConnection) -> None:
    """Note that a message comes over this connection now."""
    _last_delivery[connection] = time.monotonic()


_last_delivery: WeakKeyDictionary[AbstractConnection, float] = WeakKeyDictionary()


async def answered(
    connection: AbstractConnection, question: Coroutine[Any, Any, T], *, within_seconds: float
) -> T:
    """The answer to a question asked over this connection.

    A caller that is cancelled leaves the question alone: the client would close the channel that it
    was asked on, and with it whatever consumes there.

    Raises:
        TimeoutError: neither the answer nor a delivery came for `within_seconds`. The client closes
            the channel then.
    """
    asking = asyncio.ensure_future(question)
    asking.add_done_callback(retrieve)
    quiet_since = time.monotonic()
    while True:
        quiet_since = max(quiet_since, _last_delivery.get(connection, quiet_since))
        left = quiet_since + within_seconds - time.monotonic()
        if left <= 0:
            asking.cancel()
            raise TimeoutError
        if (await asyncio.wait([asking], timeout=left))[0]:
            return asking.result()


def retrieve(task: asyncio.Future[Any]) -> None:
    """Take note of how it ended, where nobody waits for that any more."""
    if not task.cancelled():
        task.exception()


@contextlib.contextmanager
def loss_as_error() -> Iterator[None]:
    """Make of whatever the client does to one who waits on a link that is lost a `LINK_FAILURE`.

    It cancels whoever waits; or, where the connection is closed without a reason, raises a plain
    Exception. A cancellation by anybody else is passed on. Stands inside `asyncio.timeout`, whose
    own cancellation is somebody else's too.

    Raises:
        LinkLostError: with what the client did as its cause.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        if told_to_end():
            raise
        raise LinkLostError from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise LinkLostError from error


def told_to_end() -> bool:
    """Whether somebody cancels the current task, rather than something that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
