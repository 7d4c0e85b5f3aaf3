"""Background tasks that somebody watches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from service.link import told_to_end
from service.retry import delay_after
from service.telemetry import Action, log, where

# A task that fails more often than this within the window has a defect that trying again will not
# mend: `alive` turns false, and an orchestrator replaces the process.
MAX_FAILURES = 10
WINDOW_SECONDS = 120.0


class Supervisor:
    """Runs named tasks, starts one again that failed, and knows when that no longer helps."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        self._tasks[name] = asyncio.create_task(self._attend(name, run), name=name)

    @property
    def dead(self) -> list[str]:
        """The tasks that have ended though nobody ended them."""
        return [name for name, task in self._tasks.items() if task.done()]

    async def stop(self, name: str, *, grace_seconds: float = 0) -> None:
        """End a task, cancelling it after `grace_seconds`; waits until it has ended."""
        task = self._tasks.pop(name, None)
        if task is None:
            return
        if grace_seconds:
            await asyncio.wait([task], timeout=grace_seconds)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _attend(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        failures: list[float] = []
        while True:
            try:
                await run()
            except (Exception, asyncio.CancelledError) as error:
                if told_to_end():
                    raise
                now = time.monotonic()
                failures = [*(each for each in failures if now - each < WINDOW_SECONDS), now]
                log(
                    Action.TASK_FAILED,
                    logging.ERROR,
                    task=name,
                    error=type(error).__name__,
                    where=where(error),
                )
                if len(failures) >= MAX_FAILURES:
                    raise
                await asyncio.sleep(delay_after(len(failures)).total_seconds())
            else:
                return
