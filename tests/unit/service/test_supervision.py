from __future__ import annotations

import asyncio
from functools import partial
from types import SimpleNamespace

import pytest

from service.backoff import delay_after
from service.supervisor import Supervisor
from tests.patience import PATIENCE_SECONDS


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.supervisor.delay_after", _no_delay)


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
    async with asyncio.timeout(PATIENCE_SECONDS):
        await again.wait()

    assert supervisor.dead == []
    await supervisor.stop("task")


async def test_a_task_that_fails_again_and_again_is_given_up_and_told_of() -> None:
    supervisor = Supervisor()

    async def run() -> None:
        raise ValueError("a defect")

    supervisor.start("task", run)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not supervisor.dead:
            await asyncio.sleep(0)

    assert supervisor.dead == ["task"]
    await supervisor.stop("task")


class Clock:
    """Time that passes only where something sleeps, or says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(
            "service.supervisor.delay_after", partial(delay_after, jitter=lambda: 0)
        )
        monkeypatch.setattr("service.supervisor.time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(asyncio, "sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await NEXT_TURN(0)


NEXT_TURN = asyncio.sleep


async def until_dead(supervisor: Supervisor) -> None:
    async with asyncio.timeout(5):
        while not supervisor.dead:
            await NEXT_TURN(0)
    await supervisor.stop("task")


async def test_a_task_that_fails_at_once_is_given_up_within_two_minutes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, supervisor = Clock(monkeypatch), Supervisor()

    async def run() -> None:
        raise ValueError("a defect")

    supervisor.start("task", run)
    await until_dead(supervisor)

    assert clock.now == 1 + 2 + 4 + 8 + 5 * 15


@pytest.mark.parametrize("seconds", [30.0, 119.0])
async def test_a_task_that_always_fails_after_a_while_is_given_up(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    clock, supervisor = Clock(monkeypatch), Supervisor()

    async def run() -> None:
        clock.now += seconds
        raise ValueError("a defect")

    supervisor.start("task", run)
    await until_dead(supervisor)

    assert clock.now == 10 * seconds + 90


async def test_a_task_that_ran_well_in_between_is_not_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, supervisor, runs, enough = Clock(monkeypatch), Supervisor(), list[int](), asyncio.Event()

    async def run() -> None:
        runs.append(1)
        clock.now += 120 if len(runs) % 9 == 0 else 1
        if len(runs) == 50:
            enough.set()
            await asyncio.Event().wait()
        raise ValueError("a rare fault")

    supervisor.start("task", run)
    async with asyncio.timeout(5):
        await enough.wait()

    assert supervisor.dead == []
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


def _no_delay(*_: object, **__: object) -> object:
    from datetime import timedelta

    return timedelta(0)
