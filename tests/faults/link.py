"""A link to the broker that comes back by itself, for those who must outlive a broker."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, TimeoutType
from aio_pika.exceptions import AMQPError

from tests.patience import PATIENCE_SECONDS

CONNECT_SECONDS = 5.0
CLOSE_SECONDS = 2.0
RETRY_SECONDS = 0.2
HEARTBEAT_SECONDS = 8
# aiormq says with a RuntimeError that a channel or connection is gone.
LINK_FAILURES = (AMQPError, OSError, TimeoutError, RuntimeError)


def told_to_end() -> bool:
    """Whether somebody cancels this task, rather than aiormq what waits on a link that is lost."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class _Connection(aio_pika.Connection):
    """Closed where it could not connect; else its finalizer wants a loop in whichever thread."""

    async def connect(self, timeout: TimeoutType = None) -> None:
        try:
            await super().connect(timeout)
        except BaseException:
            await self.close()
            raise


async def connect(
    url: str, name: str = "faults", *, seconds: float = PATIENCE_SECONDS
) -> AbstractConnection:
    return await aio_pika.connect(
        url,
        connection_class=_Connection,
        timeout=seconds,
        heartbeat=HEARTBEAT_SECONDS,
        client_properties={"connection_name": name},
    )


class Link:
    """One connection at a time, with one channel; whoever holds it asks for the next."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._connection: AbstractConnection | None = None

    async def open(self) -> AbstractChannel:
        """A channel with confirms on a new connection, however long that must be tried."""
        while True:
            await self.close()
            try:
                return await self._try()
            except LINK_FAILURES:
                await asyncio.sleep(RETRY_SECONDS)
            except asyncio.CancelledError:
                if told_to_end():
                    raise

    async def _try(self) -> AbstractChannel:
        self._connection = await connect(self._url, self._name, seconds=CONNECT_SECONDS)
        async with asyncio.timeout(CONNECT_SECONDS):
            return await self._connection.channel(on_return_raises=True)

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*LINK_FAILURES):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await connection.close()
