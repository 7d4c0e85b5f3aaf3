"""One connection through the proxy: a client's socket, one to the server, the framing between.

A link that is cut is reset on both sides (RST), and whatever was on its way is gone. A link that is
frozen keeps both connections open, and what comes on them; when it thaws, that passes late, and
then a close, where there was one.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from enum import Enum, auto
from typing import cast

from tests.faults.framing import Framing, FramingError, Moment, Unit

# What a frozen link takes of each side; then the peer's own sending comes to a halt.
HELD_BYTES = 1024 * 1024
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, 0 seconds


class Action(Enum):
    """What a trap does with a unit.

    CUT drops it and resets the link, FREEZE holds it and all that follows, DROP loses it alone,
    REFUSE has the server refuse it, PASS lets it through.
    """

    CUT = auto()
    FREEZE = auto()
    DROP = auto()
    REFUSE = auto()
    PASS = auto()


class Link:
    """One connection of a client, and the one to the server that was made for it."""

    def __init__(
        self,
        framing: Framing,
        server: tuple[str, int],
        *,
        judge: Callable[[Link, Moment], Action],
        ended: Callable[[Link], object],
    ) -> None:
        self._framing = framing
        self._server_address = server
        self._judge = judge
        self._tell_end = ended
        self._connecting: asyncio.Task[None] | None = None
        self.number = 0
        """Later links of a proxy have higher numbers."""
        self.frozen = False
        self.bytes_per_second: float | None = None
        """How much passes to the server; None: whatever comes."""
        self.over = False
        """Nothing passes any more; what was passed on may still be on its way out."""
        self.client = End(self, framing.from_client)
        self.server = End(self, framing.from_server)
        self.client.peer, self.server.peer = self.server, self.client
        self.left = asyncio.Event()
        """The client has closed its side or lost it, also while the link is frozen."""
        self.ended = asyncio.Event()
        self.error: FramingError | None = None

    @property
    def process(self) -> str | None:
        """Which process the client is, where the protocol says so."""
        return self._framing.client

    def cut(self) -> None:
        """Reset both sides; what was held or on its way is gone."""
        self._finish(End.reset)

    def freeze(self) -> None:
        self.frozen = True

    def thaw(self) -> None:
        self.frozen = False
        for end in (self.client, self.server):
            end.pump()
            end.resume()
        self.settle()

    def connect(self) -> None:
        self._connecting = asyncio.create_task(self._connect())

    def judge(self, moment: Moment) -> Action:
        """A moment passes: what is to be done about it."""
        return self._judge(self, moment)

    def refused(self, unit: Unit) -> bytes:
        """What the server gets in place of this unit, and refuses."""
        return self._framing.refused(unit)

    def fail(self, error: FramingError) -> None:
        self.error = error
        self.cut()

    def settle(self) -> None:
        """Where one side has gone, let the other know, unless the link is frozen."""
        if self.client.lost:
            self.left.set()
        if not self.frozen and (self.client.lost or self.server.lost):
            self._finish(End.close)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: self.server, *self._server_address)
        except OSError:
            self.cut()

    def _finish(self, how: Callable[[End], None]) -> None:
        self.over, self.frozen = True, False
        if self._connecting is not None and self._connecting is not asyncio.current_task():
            self._connecting.cancel()
        for end in (self.client, self.server):
            how(end)
        if self.client.gone and self.server.gone and not self.ended.is_set():
            self._tell_end(self)
            self.ended.set()


class End(asyncio.Protocol):
    """One side of a link: takes what comes here, hands it on at the other."""

    peer: End

    def __init__(self, link: Link, next_unit: Callable[[bytearray], Unit | None]) -> None:
        self._link = link
        self._next_unit = next_unit
        self._received = bytearray()
        self._held: bytes | None = None
        """The unit that froze the link; it goes first when the link thaws."""
        self.transport: asyncio.Transport | None = None
        self.lost = False

    @property
    def gone(self) -> bool:
        return self.lost or self.transport is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        if self._link.over:
            self.reset()
        elif self is self._link.client:
            self._link.connect()
        else:
            self.peer.pump()

    def data_received(self, data: bytes) -> None:
        self._received += data
        self.pump()
        if len(self._received) > HELD_BYTES and self._link.frozen:
            self.pause()
        elif self is self._link.client and self._link.bytes_per_second:
            self.pause()
            seconds = len(data) / self._link.bytes_per_second
            asyncio.get_running_loop().call_later(seconds, self.resume)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        self._link.settle()

    def pause_writing(self) -> None:
        self.peer.pause()

    def resume_writing(self) -> None:
        self.peer.resume()

    def pause(self) -> None:
        if not self.gone and self.transport is not None:
            self.transport.pause_reading()

    def resume(self) -> None:
        if not self.gone and self.transport is not None:
            self.transport.resume_reading()

    def pump(self) -> None:
        """Pass on what has come, in whole units, up to the one that cuts or freezes the link."""
        if self.peer.transport is None:
            return  # not connected yet
        while not (self._link.frozen or self._link.over):
            if self._held is not None:
                self.peer.write(self._held)
                self._held = None
                continue
            try:
                unit = self._next_unit(self._received)
            except FramingError as error:
                self._link.fail(error)
                return
            if unit is None:
                break
            self._pass(unit)

    def write(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)

    def close(self) -> None:
        """Close once everything is written."""
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        if self.transport is not None and not self.lost:
            sock: socket.socket = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self.transport.abort()

    def _pass(self, unit: Unit) -> None:
        match self._link.judge(unit.moment) if unit.moment else Action.PASS:
            case Action.CUT:
                self._link.cut()
            case Action.FREEZE:
                self._held = unit.data
                self._link.freeze()
            case Action.DROP:
                pass
            case Action.REFUSE:
                self.peer.write(self._link.refused(unit))
            case Action.PASS:
                self.peer.write(unit.data)
