"""What a scene has to work with: a stage whose links pass proxies, and traps in these."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.faults.framing import Moment
from tests.faults.points import ProxiedLinks
from tests.faults.proxied_link import Action, Link
from tests.faults.proxy import Trap
from tests.faults.registry import Measurement
from tests.faults.stage import Stage
from tests.faults.workload import Kind

MET_SECONDS = 60.0


def anywhere(_: Link) -> bool:
    return True


@dataclass
class Play:
    """One run of a scene on a stage of its own."""

    stage: Stage
    links: ProxiedLinks
    measured: list[Measurement] = field(default_factory=list)
    _held: list[tuple[Moment, Trap]] = field(default_factory=list)

    # Load.

    async def load(self, count: int) -> None:
        """Let the steady load go on for so many messages more; it goes on after that, too."""
        self.stage.producer.resume()
        await self.stage.producer.produced_at_least(self.stage.producer.produced + count)

    async def send(self, kind: Kind, count: int = 1) -> None:
        await self.stage.send(kind, count)

    # Links.

    def arm(
        self,
        moment: Moment,
        action: Action,
        *,
        nth: int = 1,
        on: Callable[[Link], bool] = anywhere,
        then: Callable[[], object] = lambda: None,
    ) -> Trap:
        """Do this to the link on which the moment passes for the `nth` time from now on."""
        trap = Trap(moment, action, nth=nth, on=on, then=then)
        self.links.of(moment).arm(trap)
        return trap

    async def strike(
        self,
        moment: Moment,
        action: Action,
        *,
        nth: int = 1,
        on: Callable[[Link], bool] = anywhere,
    ) -> Link:
        """The same, and wait until it is done."""
        return await self.fired(self.arm(moment, action, nth=nth, on=on))

    async def fired(self, trap: Trap) -> Link:
        """Where it fired, once it has.

        Raises:
            TimeoutError: its moment does not come.
        """
        async with asyncio.timeout(MET_SECONDS):
            await trap.fired.wait()
        assert trap.link is not None
        return trap.link

    def hold(self, moment: Moment, *, on: Callable[[Link], bool] = anywhere) -> Trap:
        """Freeze every such link as the moment passes it, from now on; returns the first trap."""
        trap = self.arm(moment, Action.FREEZE, on=on, then=lambda: self.hold(moment, on=on))
        self._held.append((moment, trap))
        return trap

    def cut_everything(self) -> None:
        """Cut all links, those that stand still too, and hold none from now on."""
        for moment, trap in self._held:
            self.links.of(moment).disarm(trap)
        self._held.clear()
        for proxy in self.links.both:
            proxy.cut()
            proxy.thaw()

    # Judgement.

    async def measure(self, what: str, seconds: Awaitable[float], bound: float) -> None:
        """What takes longer than `bound` is given up, and measured as longer."""
        try:
            async with asyncio.timeout(bound):
                taken = await seconds
        except TimeoutError:
            taken = float("inf")
        self.measured.append(Measurement(what, taken, bound))
