"""Whose cancellation it is."""

from __future__ import annotations

import asyncio


def told_to_end() -> bool:
    """Whether somebody cancels the current task, rather than something that it waits for.

    The broker's client cancels what waits for an answer on a link that is lost. Both come as a
    CancelledError; only the first must be passed on.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
