"""Notices what stands still, starts it again, and knows when that does not help.

Each part that the watch looks after has a mark that changes whenever the part moves, and a limit
well above the deadlines of everything that it waits for. A part whose mark has not changed for that
long has a defect, or met one: it is started again. If it does not move after several restarts,
`hopeless` names it, `/health/live` turns red, and an orchestrator replaces the process.

Time is counted in the watch's own turns, one a second, and not read off a clock: while the event
loop is blocked or the process is stopped, nothing could move, and no part is to blame.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from service.observability import Action, log

TURN_SECONDS = 1.0
# A restart that helps, helps at once; three that do not are no accident.
MAX_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class Watched:
    """A part of the process, with the time that it may stand still."""

    name: str
    limit_seconds: float
    mark: Callable[[], object]
    """Changes whenever the part moves; None while it has nothing to do."""
    restart: Callable[[], Awaitable[None]]


@dataclass(slots=True)
class _Standing:
    mark: object = None
    turns: int = 0
    restarts: int = 0


class Watch:
    """Looks at every part once a second."""

    def __init__(self, parts: Sequence[Watched]) -> None:
        self._parts = {part: _Standing() for part in parts}

    @property
    def stalled(self) -> dict[str, str]:
        """What stands still now, by name: for how long, in words."""
        return {
            part.name: f"stalled: no progress for {part.limit_seconds:g} s"
            for part, standing in self._parts.items()
            if standing.restarts
        }

    @property
    def hopeless(self) -> list[str]:
        """What still stands still after `MAX_RESTARTS` restarts."""
        return [
            part.name for part, standing in self._parts.items() if standing.restarts > MAX_RESTARTS
        ]

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TURN_SECONDS)
            await self.run_once()

    async def run_once(self) -> list[str]:
        """Look at every part; returns the names of those that were started again."""
        return [part.name for part in self._parts if await self._look_at(part)]

    async def _look_at(self, part: Watched) -> bool:
        standing, mark = self._parts[part], part.mark()
        if mark is None or mark != standing.mark:
            self._parts[part] = _Standing(mark)
            return False
        standing.turns += 1
        if standing.turns * TURN_SECONDS < part.limit_seconds:
            return False
        standing.turns = 0
        standing.restarts += 1
        log(
            Action.STALLED,
            logging.ERROR,
            part=part.name,
            seconds=part.limit_seconds,
            restarts=standing.restarts,
        )
        await part.restart()
        return True
