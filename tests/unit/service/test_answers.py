"""What is asked on a link that consumes: its answer comes behind whatever was delivered before."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from aiormq.abc import AbstractConnection

from service.rabbitmq.connection import answered, note_delivery
from tests.patience import PATIENCE_SECONDS


class Connection:
    """Stands for a connection: what is known of it is only which one it is."""


class Clock:
    """Stands for the module `time`."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def connection() -> AbstractConnection:
    return cast("AbstractConnection", Connection())


async def test_an_answer_may_take_as_long_as_deliveries_come(
    connection: AbstractConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("service.rabbitmq.connection.time", clock)
    answer = asyncio.get_running_loop().create_future()
    question = asyncio.wait_for(answer, PATIENCE_SECONDS)
    asking = asyncio.create_task(answered(connection, question, within_seconds=0.01))
    for _ in range(20):
        note_delivery(connection)
        clock.now += 0.005
        await asyncio.sleep(0.02)
        assert not asking.done()
    answer.set_result("here")

    assert await asking == "here"


async def test_a_link_that_is_silent_has_no_answer(connection: AbstractConnection) -> None:
    with pytest.raises(TimeoutError):
        await answered(connection, asyncio.Event().wait(), within_seconds=0.01)


async def test_who_stops_waiting_leaves_the_question_alone(connection: AbstractConnection) -> None:
    answer, told = asyncio.Event(), asyncio.Event()

    async def question() -> None:
        await answer.wait()
        told.set()

    asking = asyncio.create_task(answered(connection, question(), within_seconds=PATIENCE_SECONDS))
    await asyncio.sleep(0)
    asking.cancel()
    await asyncio.wait([asking])
    answer.set()

    async with asyncio.timeout(PATIENCE_SECONDS):
        await told.wait()
