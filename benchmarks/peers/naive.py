"""A peer: the service as a good tutorial writes it, with FastStream, SQLModel and aiomysql.

One session and one transaction per message; a relay that takes a batch of the outbox, publishes
event by event, each confirmed, and marks each row. The tables are the service's own. READ
COMMITTED, quorum queues, mandatory, persistent: as durable as the service.

    faststream run benchmarks.peers.naive:app
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import uuid4

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from db.models import Order, OutboxEvent
from order_contracts import OrderCreated, OrderProcessed
from service.config.settings import load_settings
from service.domain.fingerprint import fingerprint
from service.rabbitmq.topology import PROCESSED_KEY

PREFETCH = 50
POOL = 20
RELAY_BATCH = 100
POLL_SECONDS = 0.1

settings = load_settings()
engine = create_async_engine(
    settings.database, isolation_level="READ COMMITTED", pool_size=POOL, max_overflow=0
)
broker = RabbitBroker(settings.broker, logger=None, default_channel=Channel(on_return_raises=True))
events = RabbitExchange(
    settings.events_exchange, type=ExchangeType.TOPIC, durable=True, declare=False
)
incoming = RabbitQueue(settings.incoming_order_queue, durable=True, declare=False)


@broker.subscriber(
    incoming,
    channel=Channel(prefetch_count=PREFETCH),
    ack_policy=AckPolicy.NACK_ON_ERROR,
    no_reply=True,
)
async def on_order_created(order: OrderCreated) -> None:
    async with AsyncSession(engine) as session, session.begin():
        known = await session.exec(
            select(Order).where(Order.idempotency_key == order.idempotency_key)
        )
        if known.first() is not None:
            return
        now = datetime.now(UTC)
        session.add(
            Order(
                order_id=order.order_id,
                user_id=order.user_id,
                total_amount=order.total_amount,
                status="PROCESSED",
                idempotency_key=order.idempotency_key,
                fingerprint=fingerprint(order),
                items=[item.model_dump(mode="json", by_alias=True) for item in order.items],
                created_at=now,
                updated_at=now,
            )
        )
        event = OrderProcessed(
            order_id=order.order_id,
            idempotency_key=order.idempotency_key,
            processing_timestamp=now,
        )
        session.add(
            OutboxEvent(
                event_id=str(uuid4()),
                event_type="OrderProcessed",
                aggregate_type="order",
                aggregate_id=order.order_id,
                exchange=settings.events_exchange,
                routing_key=PROCESSED_KEY,
                payload=event.model_dump_json(by_alias=True).encode(),
                content_type="application/json",
                headers={},
            )
        )


async def relay_batch() -> int:
    """Publish what waits, oldest first, one by one; returns how many those were."""
    async with AsyncSession(engine) as session, session.begin():
        waiting = await session.exec(
            select(OutboxEvent)
            # Named, for two relays that come by different indexes deadlock.
            .with_hint(OutboxEvent, "FORCE INDEX (ix_outbox_waiting)", "mysql")
            .where(col(OutboxEvent.published_at).is_(None), col(OutboxEvent.parked_at).is_(None))
            .order_by(col(OutboxEvent.id))
            .limit(RELAY_BATCH)
            .with_for_update(skip_locked=True)
        )
        rows = waiting.all()
        for row in rows:
            await broker.publish(
                row.payload,
                exchange=events,
                routing_key=row.routing_key,
                message_id=row.event_id,
                message_type=row.event_type,
                content_type=row.content_type,
                mandatory=True,
                persist=True,
            )
            row.published_at = datetime.now(UTC)
        return len(rows)


async def relay() -> None:
    while True:
        try:
            if not await relay_batch():
                await asyncio.sleep(POLL_SECONDS)
        except Exception:
            logging.exception("the relay tries again")
            await asyncio.sleep(1)


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    # The broker starts after this; until then publishing fails, and the relay tries again.
    task = asyncio.create_task(relay())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await engine.dispose()


app = FastStream(broker, lifespan=lifespan)
