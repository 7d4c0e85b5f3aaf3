"""A peer: what the framework itself costs. Consumes the typed message and publishes the event.

The same OrderCreated, validated, and the same OrderProcessed, persistent, mandatory and confirmed
before the acknowledgement; no database, so no guarantee: a floor, not a service.

    faststream run benchmarks.peers.floor:app
"""

from datetime import UTC, datetime

from faststream import AckPolicy, FastStream
from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue

from order_contracts import OrderCreated, OrderProcessed
from service.config.settings import load_settings
from service.rabbitmq.topology import PROCESSED_KEY

settings = load_settings()
broker = RabbitBroker(settings.broker, logger=None, default_channel=Channel(on_return_raises=True))
events = RabbitExchange(
    settings.events_exchange, type=ExchangeType.TOPIC, durable=True, declare=False
)


@broker.subscriber(
    RabbitQueue(settings.incoming_order_queue, durable=True, declare=False),
    channel=Channel(prefetch_count=settings.prefetch_count),
    ack_policy=AckPolicy.NACK_ON_ERROR,
    no_reply=True,
)
@broker.publisher(exchange=events, routing_key=PROCESSED_KEY, persist=True, mandatory=True)
async def on_order_created(order: OrderCreated) -> OrderProcessed:
    return OrderProcessed(
        order_id=order.order_id,
        idempotency_key=order.idempotency_key,
        processing_timestamp=datetime.now(UTC),
    )


app = FastStream(broker)
