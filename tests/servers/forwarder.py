"""Ports that pass connections on, until they are told to hold or to refuse them.

    with Forwarders() as forwarders:
        port = forwarders.open(lambda: [server.address])
        forwarders.hold(port)

They live in a thread of their own, so that tests that wait and tests that run an event loop can
both use them, and everything that they hold back or refuse is whole again once they are closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from .process import free_ports

Address = tuple[str, int]
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]
T = TypeVar("T")

HOST = "127.0.0.1"
PIECE_BYTES = 64 * 1024
CLOSE_SECONDS = 5.0


class LoopThread:
    """An event loop in a thread; `call` runs something there and returns what it returns."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Forwarder:
    """One port. `targets` is asked for each connection: the first that accepts it, has it.

    While it holds, connections stay open, nothing passes and nobody hears of an end: a network
    that drops all packets. While it refuses, connections are gone at once: one that rejects them.
    """

    def __init__(self, targets: Callable[[], Sequence[Address]]) -> None:
        self._targets = targets
        self._links = set[asyncio.Task[None]]()
        self._passing = asyncio.Event()
        self._passing.set()
        self._refusing = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its beginning to its end."""
        link = asyncio.create_task(self._forward(reader, writer))
        self._links.add(link)
        try:
            await asyncio.wait([link])
        finally:
            self._links.discard(link)

    def hold(self) -> None:
        self._passing.clear()

    def refuse(self) -> None:
        self._refusing = True
        for link in self._links:
            link.cancel()

    def let_pass(self) -> None:
        self._refusing = False
        self._passing.set()

    async def close(self) -> None:
        self.refuse()
        if links := list(self._links):
            await asyncio.wait(links)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            await self._passing.wait()
            there = None if self._refusing else await self._connect()
            if there is None:
                return
            ends.append(there[1])
            ways = [
                asyncio.create_task(self._pass_on(reader, there[1])),
                asyncio.create_task(self._pass_on(there[0], writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for end in ends:
                    end.close()  # once everything is written
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
        except asyncio.CancelledError:
            for end in ends:
                end.transport.abort()
        finally:
            for end in ends:
                end.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for host, port in self._targets():
            with contextlib.suppress(OSError):
                return await asyncio.open_connection(host, port)
        return None

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(PIECE_BYTES):
                await self._passing.wait()
                writer.write(piece)
                await writer.drain()
        await self._passing.wait()


class Forwarders:
    """All forwarders of a set-up, and whatever else serves ports in the same thread."""

    def __init__(self) -> None:
        self._thread = LoopThread()
        self._servers: list[asyncio.Server] = []
        self._forwarders: dict[int, Forwarder] = {}

    def open(self, targets: Callable[[], Sequence[Address]]) -> int:
        """A new port that passes connections on; returns its number."""
        (port,) = free_ports(1)

        async def listen() -> None:
            self._forwarders[port] = forwarder = Forwarder(targets)
            await self._listen(port, forwarder.serve)

        self._thread.call(listen())
        return port

    def serve(self, port: int, handler: Handler) -> None:
        """Answer connections to this port."""
        self._thread.call(self._listen(port, handler))

    def hold(self, *ports: int) -> None:
        self._tell(ports, Forwarder.hold)

    def refuse(self, *ports: int) -> None:
        self._tell(ports, Forwarder.refuse)

    def let_pass(self, *ports: int) -> None:
        self._tell(ports, Forwarder.let_pass)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.call(self._close())
        self._thread.close()

    async def _listen(self, port: int, handler: Handler) -> None:
        self._servers.append(await asyncio.start_server(handler, HOST, port))

    def _tell(self, ports: Sequence[int], what: Callable[[Forwarder], None]) -> None:
        async def tell() -> None:
            for port in ports:
                what(self._forwarders[port])

        self._thread.call(tell())

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for forwarder in self._forwarders.values():
            await forwarder.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest, timeout=CLOSE_SECONDS)
