"""What faults of a stage's surroundings have in common: the operator's tools, and waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime

import pymysql
from aio_pika.abc import AbstractChannel
from pymysql.cursors import Cursor

from tests.faults.link import LINK_FAILURES, connect
from tests.faults.setting import INCOMING
from tests.faults.stage import POLL_SECONDS, RECOVERY_SECONDS, REST_SECONDS, UNAVAILABLE, Stage
from tests.servers.server import PASSWORD, USER

TOO_MANY_LINKS = 1040
NO_SUCH_THREAD = 1094
LINK_SECONDS = 60
ANSWER_SECONDS = 300
MOST_HOLDS = 20


# The broker.


async def ctl(stage: Stage, command: str, *arguments: str) -> str:
    """rabbitmqctl on the stage's broker."""
    return await asyncio.to_thread(stage.broker.ctl, command, *arguments)


@asynccontextmanager
async def operators_channel(stage: Stage) -> AsyncIterator[AbstractChannel]:
    """A channel with the rights of the service, on a connection of its own."""
    async with await connect(stage.mq_url, "faults operator") as connection:
        yield await connection.channel()


async def messages_in(stage: Stage, queue: str) -> int | None:
    """How many messages are ready in it; None where it is not there, or nobody says."""
    try:
        async with operators_channel(stage) as channel:
            declared = await channel.declare_queue(queue, passive=True)
            return declared.declaration_result.message_count or 0
    except LINK_FAILURES:
        return None


# The database.


@contextmanager
def session(stage: Stage) -> Iterator[Cursor]:
    """A session of somebody else in the stage's database: REPEATABLE READ, nothing committed.

    It is rolled back at the end of the block.
    """
    link = pymysql.connect(
        host=stage.database.host,
        port=stage.database.port,
        user=USER,
        password=PASSWORD,
        database=stage.vhost,
        connect_timeout=LINK_SECONDS,
        read_timeout=ANSWER_SECONDS,
    )
    with link, link.cursor() as cursor:
        yield cursor


def threads_of_services(stage: Stage, cursor: Cursor) -> list[int]:
    """The server's ids of all sessions in the stage's database, but for the asking one."""
    # Not from information_schema.processlist: MySQL fails where a statement of theirs holds bytes.
    cursor.execute("SHOW PROCESSLIST")
    own = cursor.connection.thread_id()  # type: ignore[no-untyped-call]
    return [row[0] for row in cursor.fetchall() if row[3] == stage.vhost and row[0] != own]


def kill_threads(cursor: Cursor, threads: list[int]) -> int:
    """KILL these sessions; how many of them were still there."""
    killed = 0
    for thread in threads:
        try:
            cursor.execute(f"KILL {thread}")
            killed += 1
        except pymysql.MySQLError as error:
            if error.args[0] != NO_SUCH_THREAD:
                raise
    return killed


async def nothing_is_stored(stage: Stage, seconds: float) -> None:
    """Return once no order has been stored for so long, under a load that goes on.

    A commit that was under way, or what still fits into a file's last page, may come before.

    Raises:
        AssertionError: there is always one more.
    """
    before = -1
    for _ in range(MOST_HOLDS):
        stored = await _stored_orders(stage)
        if stored == before:
            return
        before = stored
        await asyncio.sleep(seconds)
    raise AssertionError("orders are stored by a database that takes no writes")


async def _stored_orders(stage: Stage) -> int:
    return len(await asyncio.to_thread(stage.tables.order_ids))


# Waiting.


async def next_event(stage: Stage, within: float = RECOVERY_SECONDS) -> float:
    """Seconds from now until the observer has heard an event that it had not heard before.

    Raises:
        TimeoutError: it heard none.
    """
    started, heard = time.monotonic(), stage.observer.heard
    async with asyncio.timeout(within):
        while stage.observer.heard == heard:
            await asyncio.sleep(POLL_SECONDS)
    return time.monotonic() - started


async def published_up_to(stage: Stage, moment: float, within: float = RECOVERY_SECONDS) -> float:
    """Seconds from then, by this machine's clock, until each event stored by then is published.

    Raises:
        TimeoutError: one still waits.
    """
    until = datetime.fromtimestamp(moment, UTC).replace(tzinfo=None)
    async with asyncio.timeout(within):
        while True:
            with suppress(*UNAVAILABLE):
                oldest = await asyncio.to_thread(stage.tables.oldest_pending)
                if oldest is None or oldest > until:
                    return time.time() - moment
            await asyncio.sleep(POLL_SECONDS)


async def nothing_under_way(stage: Stage, within: float = REST_SECONDS) -> None:
    """Pause the producer; returns once all it has sent is taken in, and all of it published.

    Raises:
        TimeoutError: something is still under way.
    """
    async with asyncio.timeout(within):
        stage.producer.pause()
        await stage.producer.all_confirmed()
        while await _pending(stage) or await _waits_in_incoming(stage):
            await asyncio.sleep(POLL_SECONDS)


async def _pending(stage: Stage) -> bool:
    try:
        return (await asyncio.to_thread(stage.tables.backlog)).pending > 0
    except UNAVAILABLE:
        return True


async def _waits_in_incoming(stage: Stage) -> bool:
    if await messages_in(stage, INCOMING) != 0:
        return True
    depths = await stage.depths()
    return any(each.unacknowledged for each in depths if each.queue == INCOMING)
