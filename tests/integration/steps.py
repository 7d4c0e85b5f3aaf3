"""Steps that tests on real servers have in common: sending, looking, and the sum at the end."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from db.engine import Database
from db.models import DeadLetter, Order, OutboxEvent
from service.app import ServiceApp
from tests.factories import order_created_json
from tests.harness import Wire, eventually, rows
from tests.patience import PATIENCE_SECONDS
from tests.servers import AnyDatabase

INCOMING, PROCESSED, FAILED, DLQ = (
    "order_created_queue",
    "order_processed_queue",
    "order_failed_queue",
    "order_dlq",
)


AT_A_TIME = 50


def numbered(number: int) -> bytes:
    return order_created_json(orderId=f"o-{number}", idempotencyKey=f"k-{number}")


async def send(wire: Wire, numbers: Iterable[int], confirmed: list[int] | None = None) -> None:
    """Send one order for each number; returns once the broker has confirmed them all."""

    async def send_one(number: int) -> None:
        await wire.send(numbered(number))
        if confirmed is not None:
            confirmed.append(number)

    async with asyncio.TaskGroup() as sending:
        for number in numbers:
            sending.create_task(send_one(number))


async def keep_sending(wire: Wire, ended: asyncio.Event) -> int:
    """Send orders from number 0 on until `ended`, and once more; returns how many that were.

    What ends meanwhile ends under load, however fast it is, and has not had all of them.
    """
    sent, last = 0, False
    while not last:
        last = ended.is_set()
        await send(wire, range(sent, sent + AT_A_TIME))
        sent += AT_A_TIME
    return sent


async def send_until_it_breaks(wire: Wire, confirmed: list[int]) -> int:
    """Send orders from number 0 on until the link is lost; returns how many that were at most."""
    for sent in itertools.count(AT_A_TIME, AT_A_TIME):
        try:
            await send(wire, range(sent - AT_A_TIME, sent), confirmed)
        except ExceptionGroup:
            return sent
    raise AssertionError("it counts for ever")


async def all_is_done(
    database: Database,
    mq_url: str,
    sent: Iterable[int],
    *,
    unconfirmed: Iterable[int] = (),
    within: float = PATIENCE_SECONDS,
) -> None:
    """Every order sent is one row and one event, published, and nothing else is anywhere.

    An order that was sent without being confirmed may be there or not; if it is, then wholly.
    """
    must = {f"o-{number}" for number in sent}
    may = must | {f"o-{number}" for number in unconfirmed}

    async def nothing_waits() -> bool:
        orders, events = await found(database, Order), await found(database, OutboxEvent)
        if orders is None or events is None:
            return False
        done = {order.order_id for order in orders}
        return must <= done and len(events) == len(done) and all(e.published_at for e in events)

    await eventually(nothing_waits, within=within)
    async with Wire.connected(mq_url) as wire:

        async def queue_is_empty() -> bool:
            return await wire.depth(INCOMING) == 0

        await eventually(queue_is_empty)
        assert [await wire.depth(queue) for queue in (FAILED, DLQ)] == [0, 0]
        events = await rows(database, OutboxEvent)
        there = await messages_in(wire, PROCESSED)
    orders = [order.order_id for order in await rows(database, Order)]
    assert must <= set(orders) <= may
    assert sorted(event.aggregate_id for event in events) == sorted(orders)
    assert {event.attempts for event in events} <= {0}, "an outage costs an event no attempt"
    assert {event.event_id for event in events} == there
    assert await rows(database, DeadLetter) == []


async def messages_in(wire: Wire, queue: str) -> set[str | None]:
    """The ids of all messages in a queue; they stay there."""
    channel = await wire.connection.channel()
    async with channel:
        there = await channel.get_queue(queue, ensure=False)
        ids = set()
        while (message := await there.get(fail=False, timeout=PATIENCE_SECONDS)) is not None:
            ids.add(message.message_id)
    return ids


async def consumers(wire: Wire) -> int:
    """How many consume from the incoming queue."""
    queue = await wire.channel.declare_queue(INCOMING, passive=True)
    return queue.declaration_result.consumer_count or 0


async def consumed_by(wire: Wire, count: int) -> bool:
    """Whether so many consume from the incoming queue, as the broker knows by now."""
    return await consumers(wire) == count


async def found(database: Database, table: Any) -> list[Any] | None:
    """All rows of a table; None while the database is away."""
    try:
        return await rows(database, table)
    except (SQLAlchemyError, TimeoutError, OSError):
        return None


async def stored(database: Database, count: int) -> bool:
    return len(await found(database, Order) or ()) >= count


async def is_stored(database: Database, order_id: str) -> bool:
    return any(order.order_id == order_id for order in await found(database, Order) or ())


async def all_published(database: Database, count: int) -> bool:
    events = await found(database, OutboxEvent) or ()
    return len(events) == count and all(event.published_at for event in events)


async def counted(app: ServiceApp, outcome: str) -> int:
    return int(app.service.metrics.messages.labels(outcome)._value.get())


async def insert_order(connection: AsyncConnection, order_id: str, *, key: str) -> None:
    now = datetime.now(UTC)
    await connection.execute(
        insert(Order).values(
            order_id=order_id,
            user_id="u",
            total_amount=1,
            status="PROCESSED",
            idempotency_key=key,
            fingerprint=bytes(32),
            items=[],
            created_at=now,
            updated_at=now,
        )
    )


async def lock_waits(server: AnyDatabase) -> bool:
    """Whether some transaction waits for a lock right now."""
    status = await asyncio.to_thread(
        server.execute, "SHOW GLOBAL STATUS LIKE 'Innodb_row_lock_current_waits'"
    )
    return int(status.split()[1]) > 0
