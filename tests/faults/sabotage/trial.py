"""A scene, played by the service as it is and by sabotaged ones at the same time, and judged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults.points import ProxiedLinks
from tests.faults.registry import Measurement
from tests.faults.sabotage.catalogue import Sabotage
from tests.faults.sabotage.patch import copy_of_the_code
from tests.faults.sabotage.play import Play
from tests.faults.sabotage.scenes import Scene
from tests.faults.sabotage.vhosts import LentBroker
from tests.faults.setting import Servers, StageOptions, in_thread
from tests.faults.stage import REST_SECONDS, Rest, Stage
from tests.faults.verdict import Verdict
from tests.servers import RabbitServer

UNSABOTAGED = "unsabotaged"
# How much longer than the service as it is one that is stuck may take, in its scene and to rest.
PATIENCE_SECONDS = 4.0


@dataclass(frozen=True)
class Outcome:
    rest: Rest
    verdict: Verdict
    measured: Sequence[Measurement]

    @property
    def broken(self) -> set[str]:
        """The invariants that do not hold, and what took longer than it may."""
        return {*self.verdict.names, *(each.what for each in self.measured if not each.kept)}

    @property
    def holds(self) -> bool:
        return self.rest.reached and not self.broken

    def shows(self, sabotage: Sabotage) -> bool:
        """Whether what it breaks is broken, at rest where that can be: not on the way there."""
        awaited = not sabotage.comes_to_rest
        return sabotage.seen_by in self.broken and (self.rest.reached or awaited)

    def __str__(self) -> str:
        slow = [f"{each.what}: {each.seconds:.1f} s" for each in self.measured if not each.kept]
        at_rest = "at rest" if self.rest.reached else f"not at rest: {self.rest.waiting}"
        return "\n".join([str(self.verdict), *slow, at_rest])


class Trial:
    """One run of one scene. Outcomes are by name; the service as it is goes by `UNSABOTAGED`."""

    def __init__(self, scene: Scene, sabotages: Sequence[Sabotage], folder: Path) -> None:
        """Make the copies of the code, before anything runs.

        Raises:
            NotApplicableError: a sabotage cannot be made.
        """
        self._scene = scene
        self._sabotages = sabotages
        self._code = {
            UNSABOTAGED: copy_of_the_code(folder / UNSABOTAGED / "code"),
            **{
                each.name: copy_of_the_code(folder / each.name / "code", each.edits)
                for each in sabotages
            },
        }
        self._folder = folder
        self._all_open = asyncio.Barrier(len(self._code))
        self._control_rests: asyncio.Future[Rest] = asyncio.get_running_loop().create_future()

    async def run(self, servers: Servers) -> dict[str, Outcome]:
        """Play and judge all; journals and logs stay in the folder, by name."""
        assert isinstance(servers.broker, RabbitServer)
        lending = LentBroker.lend(servers.broker, len(self._code))
        async with in_thread(lending) as broker:
            lent = Servers(servers.database, broker)
            async with asyncio.TaskGroup() as tasks:
                judged = {UNSABOTAGED: tasks.create_task(self._control(lent))}
                for each in self._sabotages:
                    judged[each.name] = tasks.create_task(self._sabotaged(each, lent))
        return {name: task.result() for name, task in judged.items()}

    async def _control(self, servers: Servers) -> Outcome:
        async with self._opened(UNSABOTAGED, {}, servers) as play:
            await self._scene.play(play)
            rest = await play.stage.at_rest()
            self._control_rests.set_result(rest)
            return await self._judged(play, rest)

    async def _sabotaged(self, sabotage: Sabotage, servers: Servers) -> Outcome:
        """One that is to be stuck is given as long as the control took, and some more."""
        async with self._opened(sabotage.name, sabotage.environment, servers) as play:
            playing = asyncio.create_task(_played(self._scene, play))
            control = await asyncio.shield(self._control_rests)
            comes_to_rest = sabotage.comes_to_rest
            await asyncio.wait([playing], timeout=None if comes_to_rest else PATIENCE_SECONDS)
            playing.cancel()
            await asyncio.gather(playing, return_exceptions=True)
            stuck_seconds = max(PATIENCE_SECONDS, control.seconds)
            rest = await play.stage.at_rest(REST_SECONDS if comes_to_rest else stuck_seconds)
            return await self._judged(play, rest)

    @asynccontextmanager
    async def _opened(
        self, name: str, environment: dict[str, str], servers: Servers
    ) -> AsyncIterator[Play]:
        """On a stage of its own, once all others are ready, too."""
        scene, links = self._scene, ProxiedLinks()
        options = StageOptions(
            processes=scene.processes,
            rate=scene.rate,
            mix=scene.mix,
            environment={**scene.environment, **environment},
            folder=self._code[name],
            links=links,
        )
        async with Stage.open(self._folder / name, options, servers) as stage:
            await self._all_open.wait()
            yield Play(stage, links)

    async def _judged(self, play: Play, rest: Rest) -> Outcome:
        verdict = await play.stage.verdict(parks=self._scene.parks)
        return Outcome(rest, verdict, play.measured)


async def _played(scene: Scene, play: Play) -> None:
    """As far as it goes: what a sabotaged service does not do any more does not come."""
    try:
        await scene.play(play)
    except TimeoutError:
        return
    finally:
        play.stage.producer.pause()
