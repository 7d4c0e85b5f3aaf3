"""The points at which a link is cut or frozen, and how to see that the service is over it.

A proxy before each server; the service processes of a stage share them. Strikes come one after the
other, or at different points at once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.faults.framing import AMQPFraming, Moment, MySQLFraming
from tests.faults.proxied_link import Action, Link
from tests.faults.proxy import Proxy, Trap
from tests.faults.registry import Measurement
from tests.faults.setting import Address, Addresses
from tests.patience import PATIENCE_SECONDS

DATABASE_RECOVERY_SECONDS = 10.0
BROKER_RECOVERY_SECONDS = 15.0
FREEZE_NOTICED_SECONDS = 35.0
# Under load every moment comes within seconds.
MET_SECONDS = PATIENCE_SECONDS
OF_THE_BROKER = {Moment.PUBLISH, Moment.CONFIRM, Moment.ACK, Moment.CLOSE}


@dataclass(frozen=True, slots=True)
class Point:
    """Strikes as `moment` passes, if `after` has passed before, where that is given.

    Whoever was struck is over it once `over` passes on another of its links: `bound` seconds.
    """

    name: str
    moment: Moment
    over: Moment
    bound: float
    after: Moment | None = None


POINTS = (
    Point(
        "before-commit", Moment.INTAKE_COMMIT, Moment.INTAKE_COMMITTED, DATABASE_RECOVERY_SECONDS
    ),
    Point(
        "after-commit-before-ok",
        Moment.INTAKE_COMMITTED,
        Moment.INTAKE_COMMITTED,
        DATABASE_RECOVERY_SECONDS,
    ),
    Point("before-ack", Moment.ACK, Moment.ACK, BROKER_RECOVERY_SECONDS),
    Point("before-confirm", Moment.CONFIRM, Moment.CONFIRM, BROKER_RECOVERY_SECONDS),
    Point(
        "after-confirm-before-completion",
        Moment.COMPLETION_COMMIT,
        Moment.COMPLETION_COMMITTED,
        DATABASE_RECOVERY_SECONDS,
        after=Moment.CONFIRM,
    ),
)


def name_of(point: Point, action: Action) -> str:
    return f"{action.name.lower()}-{point.name}"


class ProxiedLinks:
    """A stage's links, each through a proxy; for one stage at a time."""

    database: Proxy
    broker: Proxy

    @asynccontextmanager
    async def __call__(self, servers: Addresses) -> AsyncIterator[Addresses]:
        async with (
            Proxy(MySQLFraming, *servers.database) as self.database,
            Proxy(AMQPFraming, *servers.broker) as self.broker,
        ):
            yield Addresses(*(Address(each.host, each.port) for each in self.both))

    @property
    def both(self) -> tuple[Proxy, Proxy]:
        return self.database, self.broker

    def of(self, moment: Moment) -> Proxy:
        """The proxy that a moment passes."""
        return self.broker if moment in OF_THE_BROKER else self.database

    async def strike(self, point: Point, action: Action, *, nth: int = 1) -> list[Measurement]:
        """Cut or freeze a link at the `nth` time that the point is met, and wait for recovery.

        A link that is frozen stays so until the service gives it up. What does not come within
        PATIENCE_SECONDS never came.

        Raises:
            TimeoutError: the point was not met.
        """
        found = []
        async with self._struck(point, action, nth) as link:
            if action is Action.FREEZE:
                found.append(
                    Measurement(
                        f"{name_of(point, action)}: the link given up",
                        await _seconds_until(link.left),
                        FREEZE_NOTICED_SECONDS,
                    )
                )
                link.thaw()
            over = Trap(point.over, Action.PASS, on=_replaces(link))
            async with self._armed(over):
                seconds = await _seconds_until(over.fired)
            found.append(Measurement(f"{name_of(point, action)}: resumed", seconds, point.bound))
        return found

    @asynccontextmanager
    async def _struck(self, point: Point, action: Action, nth: int) -> AsyncIterator[Link]:
        """The link that was hit; when the block ends it is frozen no more."""
        trap = Trap(point.moment, action)
        first = trap
        if point.after is not None:
            first = Trap(point.after, Action.PASS, then=lambda: self.of(trap.moment).arm(trap))
        first.nth = nth
        async with self._armed(first):
            try:
                async with asyncio.timeout(MET_SECONDS):
                    await trap.fired.wait()
            finally:
                self.of(trap.moment).disarm(trap)
        assert trap.link is not None
        try:
            yield trap.link
        finally:
            if trap.link.frozen:
                trap.link.thaw()

    @asynccontextmanager
    async def _armed(self, trap: Trap) -> AsyncIterator[None]:
        self.of(trap.moment).arm(trap)
        try:
            yield
        finally:
            self.of(trap.moment).disarm(trap)


def _replaces(hit: Link) -> Callable[[Link], bool]:
    """Whether a link is another one of the process whose link was hit.

    To the broker, where nobody says which process he is, each link has one use: there it is the
    link that was opened since.
    """

    def replaces(link: Link) -> bool:
        if hit.process is None:
            return link.number > hit.number
        return link is not hit and link.process == hit.process

    return replaces


async def _seconds_until(event: asyncio.Event) -> float:
    loop = asyncio.get_running_loop()
    started = loop.time()
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await event.wait()
    except TimeoutError:
        return math.inf
    return loop.time() - started
