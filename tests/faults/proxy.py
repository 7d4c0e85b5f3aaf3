"""A TCP proxy that cuts or freezes its links, now or as a chosen moment of the protocol passes.

    async with Proxy(MySQLFraming, "127.0.0.1", server.port) as proxy:
        trap = Trap(Moment.INTAKE_COMMIT, Action.CUT)
        proxy.arm(trap)
        await trap.fired.wait()

A trap fires once and exactly there: all of it happens on the event loop, within one call.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.faults.framing import Framing, FramingError, Moment
from tests.faults.proxied_link import Action, Link
from tests.servers.process import free_ports, give_back

HOST = "127.0.0.1"


@dataclass(eq=False)
class Trap:
    """Fires once: at the `nth` time, from its arming on, that its moment passes on such a link."""

    moment: Moment
    action: Action
    nth: int = 1
    on: Callable[[Link], bool] = lambda _: True
    then: Callable[[], object] = lambda: None
    """Called as it fires, before anything else passes the proxy."""
    met: int = 0
    fired: asyncio.Event = field(default_factory=asyncio.Event)
    link: Link | None = None
    """Where it fired."""


class Proxy:
    """One listening port in front of one server; the port stays the same while it refuses."""

    def __init__(self, framing: Callable[[], Framing], host: str, port: int) -> None:
        (self.port,) = free_ports(1)
        self.host = HOST
        self.met = Counter[Moment]()
        """How often each moment has passed, or would have."""
        self.links = set[Link]()
        self._framing = framing
        self._server_address = (host, port)
        self._listening: asyncio.Server | None = None
        self._traps: list[Trap] = []
        self._frozen = False
        self._bytes_per_second: float | None = None
        self._opened = 0
        self._errors: list[FramingError] = []

    async def accept(self) -> None:
        """Let new connections in, from now on."""
        if self._listening is None:
            loop = asyncio.get_running_loop()
            self._listening = await loop.create_server(self._new_link, self.host, self.port)

    def refuse(self) -> None:
        """Refuse new connections; those that are there stay."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    def arm(self, trap: Trap) -> None:
        self._traps.append(trap)

    def disarm(self, trap: Trap) -> None:
        """Whether it has fired or not, it does not any more."""
        if trap in self._traps:
            self._traps.remove(trap)

    def cut(self) -> None:
        for link in list(self.links):
            link.cut()

    def freeze(self) -> None:
        """Freeze every link, those to come too, until `thaw()`."""
        self._frozen = True
        for link in self.links:
            link.freeze()

    def narrow(self, bytes_per_second: float | None) -> None:
        """Let each link, those to come too, pass no more than this to the server; None: widen."""
        self._bytes_per_second = bytes_per_second
        for link in self.links:
            link.bytes_per_second = bytes_per_second

    def thaw(self) -> None:
        self._frozen = False
        for link in list(self.links):
            link.thaw()

    async def close(self) -> None:
        """End every link.

        Raises:
            FramingError: what passed was not the protocol that it should be.
        """
        self.refuse()
        self.cut()
        await asyncio.gather(*(link.ended.wait() for link in list(self.links)))
        give_back(self.port)
        if self._errors:
            raise self._errors[0]

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    def _judge(self, link: Link, moment: Moment) -> Action:
        self.met[moment] += 1
        action = Action.PASS
        concerned = [trap for trap in self._traps if trap.moment is moment and trap.on(link)]
        for trap in sorted(concerned, key=lambda trap: trap.action is Action.PASS):
            trap.met += 1
            # What another trap has stopped does not pass; the next one of its kind may.
            if trap.met >= trap.nth and action is Action.PASS:
                self._traps.remove(trap)
                action, trap.link = trap.action, link
                trap.fired.set()
                trap.then()
        return action

    def _new_link(self) -> asyncio.Protocol:
        link = Link(self._framing(), self._server_address, judge=self._judge, ended=self._ended)
        self._opened += 1
        link.number = self._opened
        link.bytes_per_second = self._bytes_per_second
        self.links.add(link)
        if self._frozen:
            link.freeze()
        return link.client

    def _ended(self, link: Link) -> None:
        self.links.discard(link)
        if link.error is not None:
            self._errors.append(link.error)
