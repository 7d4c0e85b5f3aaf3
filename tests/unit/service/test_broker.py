from __future__ import annotations

import asyncio

import pytest
from aio_pika.exceptions import AMQPError

from service.broker import _answer


@pytest.mark.parametrize(
    "failure",
    [AMQPError(), ConnectionResetError(), RuntimeError("closed"), asyncio.CancelledError()],
)
async def test_a_link_that_is_lost_while_it_is_asked_gives_no_answer(
    failure: BaseException,
) -> None:
    async def ask() -> int:
        raise failure

    assert await _answer(ask) is None


async def test_who_is_told_to_end_while_asking_ends() -> None:
    asking = asyncio.create_task(_answer(asyncio.Event().wait))
    await asyncio.sleep(0)
    asking.cancel()

    with pytest.raises(asyncio.CancelledError):
        await asking
