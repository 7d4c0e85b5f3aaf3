"""Identical messages that cannot become orders: as many dead letters as there were messages.

Nothing tells one of them from another but whether its dead letter may still be redelivered.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial

import pytest
from sqlalchemy import text

from db.engine import Database
from db.models import DeadLetter
from order_contracts import FailureReason
from service.app import ServiceApp
from service.config.settings import Settings
from service.domain.errors import BrokerAwayError, Refusal
from service.inbound import Refused
from service.rabbitmq.connection import Link
from tests.factories import delivery
from tests.harness import Wire, eventually, rows, running
from tests.integration.steps import INCOMING
from tests.processes import service_process

UNREADABLE = b"ping"


@pytest.fixture
def one_service(settings: Settings) -> Settings:
    return settings.model_copy(update={"intake_batch_size": 20, "prefetch_count": 50})


async def test_identical_messages_that_a_consumer_took_and_did_not_record_are_all_recorded(
    one_service: Settings, database: Database, wire: Wire
) -> None:
    await made_by_the_service(one_service)
    await send_identical(wire, 300)
    await take_all_and_go_away(one_service, 300)

    async with running(one_service) as app:
        await eventually(lambda: recorded(database, 300))
        await nothing_is_left(app, wire)
        await eventually(lambda: acknowledged(database, 300))
    assert len(await rows(database, DeadLetter)) == 300


async def test_identical_messages_are_counted_exactly_though_their_link_is_lost_again_and_again(
    one_service: Settings, database: Database, wire: Wire
) -> None:
    async with running(one_service) as app:
        for lost in range(3):
            await send_identical(wire, 100)
            await eventually(partial(recorded, database, 100 * lost + 30))
            app.service.broker.renew("the test wants another link")
        await eventually(lambda: recorded(database, 300))
        await nothing_is_left(app, wire)
    assert len(await rows(database, DeadLetter)) == 300


async def test_what_a_killed_process_recorded_is_recognised_and_the_rest_is_recorded(
    one_service: Settings, database: Database, wire: Wire
) -> None:
    """None is lost. Of those that it recorded last, some may have been acknowledged unnoticed."""
    with service_process(one_service) as first:
        await asyncio.to_thread(first.wait_for_status, "/health/ready", 200)
        await send_identical(wire, 300)
        await eventually(lambda: recorded(database, 40))
        first.kill()
    before = await rows(database, DeadLetter)
    unmarked = sum(row.acknowledged_at is None for row in before)

    async with running(one_service) as app:
        await nothing_is_left(app, wire)
        found = len(await rows(database, DeadLetter))
    assert 300 - unmarked <= found <= 300


async def test_two_processes_that_live_count_identical_messages_exactly(
    one_service: Settings, database: Database, wire: Wire
) -> None:
    await made_by_the_service(one_service)
    await send_identical(wire, 300)
    await take_all_and_go_away(one_service, 300)

    async with AsyncExitStack() as stack:
        apps = [await stack.enter_async_context(running(one_service)) for _ in range(2)]
        for app in apps:
            await nothing_is_left(app, wire)
        await eventually(lambda: acknowledged(database, 300))
    assert len(await rows(database, DeadLetter)) == 300


async def made_by_the_service(settings: Settings) -> None:
    """Its queues are there, and it is not."""
    async with running(settings):
        pass


async def send_identical(wire: Wire, count: int) -> None:
    async with asyncio.TaskGroup() as sending:
        for _ in range(count):
            # Two in flight under one id would mix up their confirms; these have none.
            sending.create_task(wire.send(UNREADABLE))


async def take_all_and_go_away(settings: Settings, count: int) -> None:
    """A consumer that dies with all messages in its hands: each is redelivered."""
    async with await Link.open(settings.broker, tls=None, timeout_seconds=10) as link:
        channel = await link.channel()
        queue = await channel.get_queue(INCOMING, ensure=False)
        taken = asyncio.Semaphore(0)

        async def take(_: object) -> None:
            taken.release()

        await queue.consume(take)
        for _ in range(count):
            await taken.acquire()


async def recorded(database: Database, count: int) -> bool:
    return len(await rows(database, DeadLetter)) >= count


async def acknowledged(database: Database, count: int) -> bool:
    return sum(row.acknowledged_at is not None for row in await rows(database, DeadLetter)) == count


async def nothing_is_left(app: ServiceApp, wire: Wire) -> None:
    """Every message of the queue was decided and settled."""

    async def empty() -> bool:
        return await wire.depth(INCOMING) == 0 and len(app.service.at_hand) == 0

    await eventually(empty)


async def test_what_a_lost_link_delivered_is_left_to_whoever_it_was_delivered_to_since(
    one_service: Settings, database: Database
) -> None:
    """As a process finds it in its buffers that was stopped until its link was lost."""
    refused = Refused(Refusal(FailureReason.INVALID_JSON, "body: not JSON"), delivery(UNREADABLE))
    async with running(one_service) as app:
        await app.service.intake.submit(refused)
        async with database.transaction() as connection:
            await connection.execute(
                text("UPDATE dead_letters SET acknowledged_at = UTC_TIMESTAMP(6)")
            )
        with pytest.raises(BrokerAwayError):
            await app.service.intake.submit(refused)
    assert len(await rows(database, DeadLetter)) == 1
