"""Background tasks that somebody watches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from service.backoff import delay_after
from service.observability import Action, log, where
from service.rabbitmq.connection import told_to_end

# A task that fails this often, and never ran well for as long in between, has a defect that trying
# again will not mend: it counts as dead, and an orchestrator replaces the process.
MAX_FAILURES = 10
RUNS_WELL_SECONDS = 120.0
# Ten failures at once, and the delays between them, take at most 91 s: 1, 2, 4, 8, then 15 s each.
LONGEST_DELAY_SECONDS = 15.0
# What does not end by then though it was cancelled is stuck, and is left behind.
CANCEL_SECONDS = 2.0


class Supervisor:
    """Runs named tasks, starts one again that failed, and knows when that no longer helps."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._runs: dict[str, Callable[[], Awaitable[None]]] = {}
        self._stuck: list[str] = []

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        self._runs[name] = run
        self._tasks[name] = asyncio.create_task(self._attend(name, run), name=name)

    @property
    def dead(self) -> list[str]:
        """The tasks that have ended though nobody ended them, or that no cancellation ends."""
        return [*(name for name, task in self._tasks.items() if task.done()), *self._stuck]

    async def restart(self, name: str) -> None:
        """End a task and start it again; where it cannot be ended it is named in `dead`."""
        task = self._tasks.get(name)
        if task is None:
            return  # it was ended on purpose
        task.cancel()
        _, running = await asyncio.wait([task], timeout=CANCEL_SECONDS)
        if running:
            self._stuck.append(name)
        else:
            self.start(name, self._runs[name])

    async def stop(self, name: str, *, grace_seconds: float = 0) -> None:
        """End a task, cancelling it after `grace_seconds`.

        Returns when it has ended; one that no cancellation ends is left after `CANCEL_SECONDS`.
        """
        task = self._tasks.pop(name, None)
        if task is None:
            return
        if grace_seconds:
            await asyncio.wait([task], timeout=grace_seconds)
        task.cancel()
        await asyncio.wait([task], timeout=CANCEL_SECONDS)

    async def _attend(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        failures = 0
        while True:
            started = time.monotonic()
            try:
                await run()
            except (Exception, asyncio.CancelledError) as error:
                if told_to_end():
                    raise
                ran_well = time.monotonic() - started >= RUNS_WELL_SECONDS
                failures = 1 if ran_well else failures + 1
                log(
                    Action.TASK_FAILED,
                    logging.ERROR,
                    task=name,
                    error=type(error).__name__,
                    where=where(error),
                    failures=failures,
                )
                if failures >= MAX_FAILURES:
                    raise
                delay = delay_after(failures, longest_seconds=LONGEST_DELAY_SECONDS)
                await asyncio.sleep(delay.total_seconds())
            else:
                return
