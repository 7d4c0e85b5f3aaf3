"""Exchange, queues and bindings: what this service needs at the broker. No I/O.

Missing queues are declared durable and quorum. What is there with other arguments is used as it is:
it belongs to somebody who had reasons; what is lost by it is said once, in a warning. Refused is
what would lose orders or have them go round (`compatibility`), before anything is bound.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from service.config.settings import Settings

PROCESSED_KEY = "order.processed"
FAILED_KEY = "order.failed"
CREATED_KEY = "order.created"
DEAD_LETTER_KEY = "order.dead_letter"

# Under this name a service consumes; behind it stands its database, which tells it from others.
CONSUMER_NAME = "orders consumer of "


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as this service would declare it, and the key that binds it to the exchange."""

    name: str
    binding_key: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Topology:
    """Names and arguments of everything this service needs at the broker."""

    exchange: str
    incoming: Queue
    processed: Queue
    failed: Queue
    dead_letters: Queue
    processed_key: str = PROCESSED_KEY
    failed_key: str = FAILED_KEY
    dead_letter_key: str = DEAD_LETTER_KEY

    @classmethod
    def of(cls, settings: Settings) -> Topology:
        quorum = {"x-queue-type": "quorum"}
        crash_loops = {
            # A message whose handler dies each time is moved aside after this many deliveries,
            # and that move is itself safe: kept until the dead-letter queue has confirmed it.
            "x-delivery-limit": settings.delivery_limit,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": settings.dlq_queue,
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        }
        return cls(
            exchange=settings.events_exchange,
            incoming=Queue(settings.incoming_order_queue, CREATED_KEY, quorum | crash_loops),
            processed=Queue(settings.outgoing_processed_queue, PROCESSED_KEY, quorum),
            failed=Queue(settings.outgoing_failed_queue, FAILED_KEY, quorum),
            dead_letters=Queue(settings.dlq_queue, DEAD_LETTER_KEY, quorum),
        )

    @property
    def queues(self) -> tuple[Queue, ...]:
        # The dead-letter queue first: the incoming queue's dead-lettering points at it.
        return (self.dead_letters, self.processed, self.failed, self.incoming)
