"""The subscriber of OrderCreated: receive, read, submit, translate the outcome, return."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from datetime import timedelta
from typing import Any

from faststream import AckPolicy
from faststream.exceptions import RejectMessage
from faststream.message import StreamMessage
from faststream.rabbit import Channel, ExchangeType, RabbitExchange, RabbitQueue, RabbitRouter
from pydantic import ValidationError

from order_contracts import (
    IDENTIFIER,
    DeadLetter,
    FailureReason,
    OrderCreated,
    OrderFailed,
    OrderProcessed,
)
from service.backoff import delay_after
from service.consumer import codec
from service.consumer.acknowledgements import Acknowledging, AtHand
from service.consumer.unit_of_work import Outcome
from service.domain.cloud_events import data_of, is_structured
from service.domain.errors import BrokerAwayError, DatabaseAwayError, Refusal, TooManyReturnsError
from service.domain.message_type import other_type
from service.inbound import Candidate, Refused
from service.observability import Action, log, where
from service.rabbitmq.delivery import Delivery
from service.rabbitmq.origin import content_encoding, content_type, named_types, own_event
from service.rabbitmq.topology import Topology

Submit = Callable[[Candidate | Refused], Awaitable[Outcome]]
"""Returns once what was submitted is stored; raises as `Intake.submit()` does."""

MAX_NAMED_FAULTS = 5
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0
MANY = 100
GIVE_BACK_SECONDS = 1.0
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


def make_router(
    topology: Topology, submit: Submit, at_hand: AtHand, *, prefetch_count: int
) -> RabbitRouter:
    """The subscriber of the incoming queue, and the description of what is published."""
    router = RabbitRouter(middlewares=(_dead_lettering(submit, at_hand, topology.incoming.name),))

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
    async def on_order_created(order: OrderCreated) -> Any:
        """A valid order asks to be processed: once in effect, however often it is delivered."""
        return Candidate.of(order, _delivery.get())

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
    """The JSON of an order, from the body or from the CloudEvent that the body is.

    Raises:
        Refusal: it names another type, or cannot be read.
    """
    raw = message.raw_message
    if place := other_type(*named_types(raw)):
        raise Refusal(
            FailureReason.UNSUPPORTED_TYPE, f"{place}: must name OrderCreated, or be absent"
        )
    value = codec.decode(message.body, content_encoding(raw))
    if is_structured(content_type(raw)):
        value = data_of(value)
        if isinstance(value, bytes):
            value = codec.decode(value)
    return value


def _dead_lettering(submit: Submit, messages: AtHand, queue: str) -> type[Acknowledging]:
    """A middleware that submits what the handler has read, an order or a dead letter to be, and
    acknowledges.

    One, not two: what FastStream does for each middleware it does for each message.
    """

    class DeadLettering(Acknowledging):
        at_hand = messages

        async def consume_scope(
            self,
            call_next: Callable[[StreamMessage[Any]], Awaitable[Any]],
            msg: StreamMessage[Any],
        ) -> Any:
            delivery = Delivery(msg.raw_message, queue)
            _delivery.set(delivery)
            try:
                # Only when what was decoded, and any error about it, has ended: many wait here.
                await submit(await _read(call_next, msg, delivery))
            except (DatabaseAwayError, BrokerAwayError):
                # Given back on purpose, and told of where it was noticed. While the link is there
                # it would come again at once.
                if delivery.raw.delivery_tag is not None:
                    await asyncio.sleep(GIVE_BACK_SECONDS)
                raise
            except TooManyReturnsError as error:
                raise RejectMessage(requeue=False) from error
            except Exception as error:
                log(
                    Action.MESSAGE_FAILED,
                    logging.ERROR,
                    error=type(error.__cause__ or error).__name__,
                    where=where(error.__cause__ or error),
                    redelivered=delivery.raw.redelivered,
                )
                await asyncio.sleep(pause_before(delivery.raw).total_seconds())
                # Counts towards the delivery limit on every RabbitMQ, which a nack does not.
                raise RejectMessage(requeue=True) from error

    return DeadLettering


def pause_before(raw: Any) -> timedelta:
    """How long to wait before a message that failed goes back to the queue, to come at once.

    A classic queue does not count deliveries: there each one after the first waits the longest.
    """
    count = raw.headers.get("x-delivery-count")
    failures = count + 1 if isinstance(count, int) else MANY if raw.redelivered else 1
    return delay_after(
        failures, first_seconds=FIRST_PAUSE_SECONDS, longest_seconds=LONGEST_PAUSE_SECONDS
    )


async def _read(
    call_next: Callable[[StreamMessage[Any]], Awaitable[Any]],
    msg: StreamMessage[Any],
    delivery: Delivery,
) -> Candidate | Refused:
    """What the message asks for. Of what was decoded it keeps the order, of an error its text."""
    if (event := own_event(delivery.raw)) and delivery.storable:
        return refused_event(delivery, *event)
    try:
        candidate: Candidate = await call_next(msg)
    except ValidationError as error:
        return Refused(refusal_of(error), delivery, readable_order_id(await msg.decode()))
    except Refusal as refusal:
        return Refused(refusal.without_origin(), delivery)
    else:
        return candidate
    finally:
        msg.clear_cache()


def refused_event(delivery: Delivery, kind: str, event_id: str) -> Refused:
    """An event of this service that a topology has led back to it: to be recorded, and no more."""
    details = f"type: {kind}, an event of an order service that came back"
    refusal = Refusal(FailureReason.UNSUPPORTED_TYPE, details)
    return Refused(refusal, delivery, own_event=event_id)


def refusal_of(error: ValidationError) -> Refusal:
    """Which fields broke which rules; no values, and nothing of the error but its text."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    named = [
        f"{_path(fault['loc'])}: {RULES.get(fault['type']) or fault['msg']}"
        for fault in faults[:MAX_NAMED_FAULTS]
    ]
    if more := len(faults) - len(named):
        named.append(f"and {more} more")
    return Refusal(FailureReason.INVALID_PAYLOAD, "; ".join(named))


def readable_order_id(value: Any) -> str | None:
    """The order id in a decoded body that is no valid order, where it is one by itself."""
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
