from __future__ import annotations

import asyncio

import pytest

from service import supervision
from service.supervision import Supervisor


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "delay_after", _no_delay)


@pytest.mark.parametrize("failure", [ValueError("a defect"), asyncio.CancelledError()])
async def test_a_task_that_fails_is_started_again(failure: BaseException) -> None:
    supervisor, again, runs = Supervisor(), asyncio.Event(), list[int]()

    async def run() -> None:
        runs.append(1)
        if len(runs) == 1:
            raise failure
        again.set()
        await asyncio.Event().wait()

    supervisor.start("task", run)
    async with asyncio.timeout(5):
        await again.wait()

    assert supervisor.dead == []
    await supervisor.stop("task")


async def test_a_task_that_fails_again_and_again_is_given_up_and_told_of() -> None:
    supervisor = Supervisor()

    async def run() -> None:
        raise ValueError("a defect")

    supervisor.start("task", run)
    async with asyncio.timeout(5):
        while not supervisor.dead:
            await asyncio.sleep(0)

    assert supervisor.dead == ["task"]
    await supervisor.stop("task")


async def test_stopping_cancels_what_does_not_end_within_its_grace() -> None:
    supervisor, cancelled = Supervisor(), asyncio.Event()

    async def run() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    supervisor.start("task", run)
    await asyncio.sleep(0)
    await supervisor.stop("task", grace_seconds=0.01)

    assert cancelled.is_set()
    assert supervisor.dead == []


def _no_delay(*_: object) -> object:
    from datetime import timedelta

    return timedelta(0)
