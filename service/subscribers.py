"""The subscriber of OrderCreated: receive, call, translate the outcome, return."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

from faststream import AckPolicy
from faststream.exceptions import RejectMessage
from faststream.message import StreamMessage
from faststream.rabbit import Channel, ExchangeType, RabbitExchange, RabbitQueue, RabbitRouter
from pydantic import ValidationError

from service import codec
from service.acknowledging import Acknowledging
from service.contracts import (
    IDENTIFIER,
    DeadLetter,
    FailureReason,
    OrderCreated,
    OrderFailed,
    OrderProcessed,
)
from service.delivery import Delivery
from service.errors import BrokerAwayError, DatabaseAwayError, Refusal
from service.intake import Intake
from service.orders import Candidate, Refused
from service.telemetry import Action, log, where
from service.topology import Topology

MAX_NAMED_FAULTS = 5
# What Pydantic says in Python's words, in JSON's.
RULES = {
    "dict_type": "Input should be an object",
    "model_type": "Input should be an object",
    "model_attributes_type": "Input should be an object",
    "tuple_type": "Input should be an array",
}

# Injecting the message into the handler costs as much as all the rest of consuming it (three times
# the whole, measured), so the middleware leaves the delivery here.
_delivery: ContextVar[Delivery] = ContextVar("delivery")


def make_router(topology: Topology, intake: Intake, *, prefetch_count: int) -> RabbitRouter:
    """The subscriber of the incoming queue, and the description of what is published."""
    router = RabbitRouter(middlewares=(_dead_lettering(intake, topology.incoming.name),))

    @router.subscriber(
        incoming_queue(topology),
        channel=Channel(prefetch_count=prefetch_count),
        decoder=_decode,
        # The middleware acknowledges when the handler has returned: after the commit.
        ack_policy=AckPolicy.MANUAL,
        # A message's reply_to would have us publish where its sender says.
        no_reply=True,
        title="OrderCreated",
        description=(
            "Orders to process. Each ends as one order and one OrderProcessed, or as one dead "
            "letter with its reason and one OrderFailed."
        ),
    )
    async def on_order_created(order: OrderCreated) -> None:
        """Process an order: once in effect, however often it is delivered."""
        await intake.submit(Candidate.of(order, _delivery.get()))

    events = RabbitExchange(topology.exchange, type=ExchangeType.TOPIC, durable=True, declare=False)
    for queue, schema, description in (
        (topology.processed, OrderProcessed, "An order was stored."),
        (topology.failed, OrderFailed, "A message could not become an order."),
        (topology.dead_letters, DeadLetter, "What could not become an order, as it came, and why."),
    ):
        # Described here, published by the relay.
        router.publisher(
            RabbitQueue(queue.name, routing_key=queue.binding_key, durable=True, declare=False),
            events,
            persist=True,
            schema=schema,
            title=schema.__name__,
            description=(
                f"{description} Arrives on the queue `{queue.name}`; bind a queue of your own to "
                f"the exchange `{topology.exchange}` by `{queue.binding_key}` to receive it too."
            ),
        )
    return router


def incoming_queue(topology: Topology) -> RabbitQueue:
    """The incoming queue, as it is: declaring is the topology's business."""
    return RabbitQueue(topology.incoming.name, durable=True, declare=False)


async def _decode(message: StreamMessage[Any]) -> Any:
    return codec.decode(message.body, message.raw_message.content_encoding)


def _dead_lettering(intake: Intake, queue: str) -> type[Acknowledging]:
    """A middleware that turns what cannot become an order into a dead letter, and acknowledges.

    One, not two: what FastStream does for each middleware it does for each message.
    """

    class DeadLettering(Acknowledging):
        async def consume_scope(
            self,
            call_next: Callable[[StreamMessage[Any]], Awaitable[Any]],
            msg: StreamMessage[Any],
        ) -> Any:
            delivery = Delivery(msg.raw_message, queue)
            _delivery.set(delivery)
            try:
                try:
                    return await call_next(msg)
                except ValidationError as error:
                    order_id = readable_order_id(delivery.body)
                    await intake.submit(Refused(refusal_of(error), delivery, order_id))
                except Refusal as refusal:
                    await intake.submit(Refused(refusal, delivery))
            except (DatabaseAwayError, BrokerAwayError):
                raise  # given back on purpose, and told of where it was noticed
            except Exception as error:
                log(
                    Action.MESSAGE_FAILED,
                    logging.ERROR,
                    error=type(error.__cause__ or error).__name__,
                    where=where(error.__cause__ or error),
                    redelivered=delivery.raw.redelivered,
                )
                # Counts towards the delivery limit on every RabbitMQ, which a nack does not.
                raise RejectMessage(requeue=True) from error

    return DeadLettering


def refusal_of(error: ValidationError) -> Refusal:
    """Which fields broke which rules; no values."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    named = [
        f"{_path(fault['loc'])}: {RULES.get(fault['type']) or fault['msg']}"
        for fault in faults[:MAX_NAMED_FAULTS]
    ]
    if more := len(faults) - len(named):
        named.append(f"and {more} more")
    return Refusal(FailureReason.INVALID_PAYLOAD, "; ".join(named))


def readable_order_id(body: bytes) -> str | None:
    """The order id in a JSON body that is no valid order, where it is one by itself."""
    value = codec.decode(body)
    order_id = value.get("orderId") if isinstance(value, dict) else None
    if isinstance(order_id, str) and IDENTIFIER.fullmatch(order_id):
        return order_id
    return None


def _path(location: tuple[str | int, ...]) -> str:
    """`("order", "items", 3, "quantity")`, as FastStream names it, is `items[3].quantity`."""
    path = ""
    for part in location[1:]:
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".") or "body"
