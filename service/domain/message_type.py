"""The type that a message names: OrderCreated, another one, or none.

AMQP has one property for it, and clients have a header each: `docs/consumers.md` has the table.
A message may name its type in several places; each of them has to name OrderCreated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

# Names of headers in lower case.
ONE_TYPE = frozenset(
    {"cloudevents:type", "cloudevents_type", "ce-type", "ce_type"}  # CloudEvents, all bindings
    | {"__typeid__", "json__typeid__"}  # Spring AMQP, Spring Integration
    | {"axon-message-type", "event-type", "eventtype", "event_type"}  # Axon, Eventuate, Debezium
    | {"jmstype"}  # JMS clients
    | {"task", "task_name"}  # Celery, Taskiq
    | {"type"}  # Symfony Messenger
    | {"message-type", "message_type", "messagetype"}  # Wolverine and home-made clients
    | {"rbs2-msg-type", "cap-msg-type"}  # Rebus, CAP
)
# Of everything that the message is, the most derived type first.
SEVERAL_TYPES = frozenset({"nservicebus.enclosedmessagetypes", "mt-messagetype"})
LONGEST = 1024

# `OrderCreated` after a namespace; `.v1` is the version that has no other name.
_ORDER_CREATED = re.compile(
    r"(?:.*[.:\\/+$#])?order[-_.]?created(?:[.:/_-]v1)?", re.IGNORECASE | re.ASCII | re.DOTALL
)


def is_order_created(name: str) -> bool:
    """Whether a name means OrderCreated.

    Plain, behind a namespace (`Shop.`, `urn:message:Shop:`, `App\\Message\\`, `com.example.`), in
    front of an assembly (`Shop.OrderCreated, Shop.Messages`), as `order.created`, `order_created`
    or `order-created`, in any case, with or without `.v1`. `OrderCreated.v2` is another type.
    """
    return len(name) <= LONGEST and bool(_ORDER_CREATED.fullmatch(name.partition(",")[0].strip()))


def other_type(property_type: Any, headers: Mapping[str, Any]) -> str | None:
    """Where a message names another type than OrderCreated; None where it does not.

    Args:
        property_type: the AMQP property `type`.
        headers: the AMQP headers; their names are read in any case.

    Returns:
        `type` or `header NAME`, NAME in lower case: the place, never the type.
    """
    if not _agrees(property_type, several=False):
        return "type"
    for name, value in headers.items():
        key = name.lower()
        several = key in SEVERAL_TYPES
        if (several or key in ONE_TYPE) and not _agrees(value, several=several):
            return f"header {key}"
    return None


def _agrees(value: Any, *, several: bool) -> bool:
    match value:
        case None:
            return True
        case str() if not value.strip():
            return True
        case str():
            return any(map(is_order_created, value.split(";") if several else [value]))
        case list() if several:
            return any(isinstance(each, str) and is_order_created(each) for each in value)
        case _:
            return False
