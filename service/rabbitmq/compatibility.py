"""What an exchange or a queue that somebody else made costs the promise. No I/O.

The broker compares a declaration with what is there, and names the first difference together with
what is there. Declared once more with that, and so on, it tells all of it (`Found.corrected_by`).
Policies it does not tell that way: they are the management API's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Literal

from service.rabbitmq.topology import Topology

MOST_DIFFERENCES = 24
# Since then a quorum queue that has no limit of its own has this one.
LIMITS_CRASH_LOOPS = 4
USUAL_DELIVERY_LIMIT = 20
DROPPING = frozenset({None, "drop-head"})
_DIFFERENCE = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for (?:queue|exchange) .* but current is "
    r"(?:none|the value '(?P<value>.*)' of type '(?P<type>\w+)'|'(?P<word>.*)')$",
    re.DOTALL,
)
_FLAGS = frozenset({"durable", "auto_delete", "internal"})
_TEXTS = frozenset({None, "longstr", "shortstr"})


class Harm(IntEnum):
    """LESS: it works, with less. BROKEN: part of the promise does not hold. REFUSED: orders would
    be lost, or go round, in ordinary use."""

    LESS = 1
    BROKEN = 2
    REFUSED = 3


@dataclass(frozen=True, slots=True)
class Effect:
    """One thing that follows from what is there."""

    harm: Harm
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """An exchange or a queue as it is; `type` is an exchange's alone."""

    type: str = "topic"
    durable: bool = True
    auto_delete: bool = False
    internal: bool = False
    arguments: dict[str, Any] = field(default_factory=dict)

    def corrected_by(self, words: str) -> Found:
        """Itself with what the broker said is there instead; itself where it said nothing new."""
        said = _DIFFERENCE.search(words)
        if said is None:
            return self
        name = said["name"]
        value = said["word"] if said["value"] is None else said["value"]
        if name == "type":
            return replace(self, type=str(value))
        if name in _FLAGS:
            flag: dict[str, Any] = {name: value == "true"}
            return replace(self, **flag)
        arguments = {key: each for key, each in self.arguments.items() if key != name}
        if value is not None:
            arguments[name] = _typed(value, said["type"])
        return replace(self, arguments=arguments)

    def under_policy(self, definition: Mapping[str, Any]) -> Found:
        """With what a policy adds. Arguments win, of two limits the smaller."""
        merged = dict(self.arguments)
        for key, value in definition.items():
            name = f"x-{key}"
            own = merged.get(name, value)
            both = isinstance(own, int) and isinstance(value, int)
            merged[name] = min(own, value) if both else own
        return replace(self, arguments=merged)

    def by(self, version: str) -> Found:
        """With what this RabbitMQ assumes where nothing is said."""
        major = re.match(r"\d+", version)
        newer = major is not None and int(major[0]) >= LIMITS_CRASH_LOOPS
        if self.queue_type != "quorum" or not newer:
            return self
        limit = {"x-delivery-limit": USUAL_DELIVERY_LIMIT}
        return replace(self, arguments=limit | self.arguments)

    @property
    def queue_type(self) -> str:
        return str(self.arguments.get("x-queue-type", "classic"))

    @property
    def lasting(self) -> bool:
        """Whether it outlives a restart of the broker, and of those who use it."""
        return self.durable and not self.auto_delete


@dataclass(frozen=True, slots=True)
class Difference:
    """An exchange or a queue that is there, other than this service would make it."""

    kind: Literal["exchange", "queue"]
    name: str
    words: str
    """The broker's own; they name the first difference only."""
    found: Found
    effects: Sequence[Effect]

    @property
    def harm(self) -> Harm:
        return max((each.harm for each in self.effects), default=Harm.LESS)

    @property
    def lost(self) -> str:
        """What this service promises and cannot where this one differs."""
        nothing = "nothing that this service promises, beyond what those arguments take away"
        return "; ".join(each.text for each in self.effects) or nothing


def difference_of(
    topology: Topology,
    kind: Literal["exchange", "queue"],
    name: str,
    words: str,
    found: Found,
) -> Difference:
    """What follows from what was found under a name of ours."""
    effects = (
        exchange_effects(found) if kind == "exchange" else queue_effects(topology, name, found)
    )
    return Difference(kind, name, words, found, effects)


def refusal_of(difference: Difference) -> str:
    """Why the service does not start with it: what is there, what is needed, what to do."""
    name, found = difference.name, difference.found
    why = next(each.text for each in difference.effects if each.harm is Harm.REFUSED)
    if difference.kind == "exchange":
        there = f"{_article(found.type)} exchange{', internal' if found.internal else ''}"
        needed, setting = "a topic exchange", "EVENTS_EXCHANGE"
    else:
        there = _article(found.queue_type)
        there += "" if found.queue_type == "stream" else " queue"
        there += "" if found.durable else ", not durable"
        there += ", deleted when unused" if found.auto_delete else ""
        needed, setting = "a durable quorum queue", "INCOMING_ORDER_QUEUE"
    return (
        f"the {difference.kind} {name} is there as {there}, and {needed} is needed ({why}): "
        f"delete it, and the service makes it, or set {setting} to another name"
    )


def exchange_effects(found: Found) -> list[Effect]:
    """What follows where the exchange of the events is like that."""
    effects = []
    if found.type == "direct":
        effects.append(
            Effect(Harm.LESS, "patterns such as order.* bind no queue to it, exact keys do")
        )
    elif found.type != "topic":
        # As a fanout or headers exchange does; what other types do, their plugins say.
        text = "it does not route by our keys alone, so that events come back as work"
        effects.append(Effect(Harm.REFUSED, text))
    if found.internal:
        effects.append(Effect(Harm.REFUSED, "nobody may publish to an internal exchange"))
    if not found.lasting:
        text = "others' bindings go with it when the broker restarts, and events pass them by"
        effects.append(Effect(Harm.BROKEN, text))
    if (other := found.arguments.get("alternate-exchange")) is not None:
        text = f"an event that finds no queue goes to {other}, and counts as published"
        effects.append(Effect(Harm.LESS, text))
    return effects


def queue_effects(topology: Topology, name: str, found: Found) -> list[Effect]:
    """What follows where this queue of ours is like that."""
    if name == topology.incoming.name:
        return _incoming(topology, found)
    return _outgoing(topology, name, found)


def _incoming(topology: Topology, found: Found) -> list[Effect]:
    if found.queue_type == "stream":
        text = "a stream does not keep what waits for a service that starts again"
        return [Effect(Harm.REFUSED, text)]
    effects = []
    if not found.durable:
        text = "it is gone, and all its orders, whenever the broker restarts"
        effects.append(Effect(Harm.REFUSED, text))
    if found.auto_delete:
        text = "it is deleted, with all its orders, when the service stops"
        effects.append(Effect(Harm.REFUSED, text))
    arguments = found.arguments
    aside = _aside(topology, topology.incoming.name, found)
    if (expires := arguments.get("x-expires")) is not None:
        text = f"it is deleted with its orders when no service runs for {_time(expires)}"
        effects.append(Effect(Harm.BROKEN, text))
    if (ttl := arguments.get("x-message-ttl")) is not None:
        text = f"an order that waits for {_time(ttl)} is {aside} unread: no order, no OrderFailed"
        effects.append(Effect(Harm.BROKEN, text))
    if (length := _length(found)) and arguments.get("x-overflow") in DROPPING:
        text = f"beyond {length} the oldest orders are {aside}, which their senders know as safe"
        effects.append(Effect(Harm.BROKEN, text))
    elif length and arguments.get("x-overflow") == "reject-publish-dlx":
        text = f"beyond {length} an order that its sender was refused is {aside} all the same"
        effects.append(Effect(Harm.LESS, text))
    effects += _crash_loops(topology, found)
    if found.queue_type == "classic":
        effects.append(_not_replicated())
    if arguments.get("x-single-active-consumer"):
        text = (
            "one process takes orders, and the others wait until it ends (single active consumer)"
        )
        effects.append(Effect(Harm.LESS, text))
    if arguments.get("x-max-priority"):
        effects.append(Effect(Harm.LESS, "orders of a higher priority overtake the others"))
    return effects


def _crash_loops(topology: Topology, found: Found) -> list[Effect]:
    """Where a message goes that kills its process each time."""
    dlq = topology.dead_letters.name
    limit = found.arguments.get("x-delivery-limit")
    loop = "a message that kills its process each time is"
    to = _target(topology, topology.incoming.name, found)
    if found.queue_type != "quorum" or limit is None:
        text = f"{loop} not moved to {dlq}: it comes again and again"
        return [Effect(Harm.LESS, text)]
    if to is None or to == topology.incoming.name:
        going_round = "" if to is None else ", for it would go round"
        text = f"{loop} dropped after {limit} deliveries{going_round}"
        return [Effect(Harm.BROKEN, text)]
    if to in {topology.processed.name, topology.failed.name}:
        text = f"{loop} moved to {to} after {limit} deliveries, where others read events"
        return [Effect(Harm.BROKEN, text)]
    if to != dlq:
        text = f"{loop} moved to {to} after {limit} deliveries, not to {dlq}: is a queue there?"
        return [Effect(Harm.LESS, text)]
    if found.arguments.get("x-dead-letter-strategy") != "at-least-once":
        text = f"{loop} lost after {limit} deliveries if {dlq} cannot take it then (at-most-once)"
        return [Effect(Harm.LESS, text)]
    return []


def _outgoing(topology: Topology, name: str, found: Found) -> list[Effect]:
    effects = []
    if not found.lasting:
        text = "it is gone, and all its messages, whenever the broker restarts"
        if found.auto_delete:
            text = "it is deleted, with all its messages, when its last reader leaves"
        effects.append(Effect(Harm.BROKEN, text))
    if found.queue_type == "classic":
        effects.append(_not_replicated())
    if found.queue_type == "stream":
        text = "what was read stays, and what was not goes by the stream's retention"
        effects.append(Effect(Harm.LESS, text))
    arguments = found.arguments
    aside = _aside(topology, name, found)
    if (expires := arguments.get("x-expires")) is not None:
        text = f"it is deleted with its messages when nobody reads it for {_time(expires)}"
        effects.append(Effect(Harm.LESS, text))
    if (ttl := arguments.get("x-message-ttl")) is not None:
        effects.append(Effect(Harm.LESS, f"what nobody reads for {_time(ttl)} is {aside}"))
    if length := _length(found):
        full = f"beyond {length} the oldest messages are {aside}"
        if arguments.get("x-overflow") not in DROPPING:
            full = f"beyond {length} it takes nothing, and events wait in the outbox"
        effects.append(Effect(Harm.LESS, full))
    to = _target(topology, name, found)
    if to == topology.incoming.name:
        effects.append(_comes_back(topology, name))
    return effects


def _comes_back(topology: Topology, name: str) -> Effect:
    if name == topology.dead_letters.name:
        text = "a dead letter that comes back is decided anew, one attempt more each time"
        return Effect(Harm.LESS, text)
    text = "our own events come back as work, and each adds a record that says so"
    return Effect(Harm.BROKEN, text)


def _target(topology: Topology, name: str, found: Found) -> str | None:
    """Where the queue dead-letters into: a queue of ours, else the exchange; None: nowhere."""
    exchange = found.arguments.get("x-dead-letter-exchange")
    if exchange is None:
        return None
    key = found.arguments.get("x-dead-letter-routing-key")
    if exchange == "":
        return name if key is None else str(key)
    if exchange == topology.exchange:
        keys = {queue.binding_key: queue.name for queue in topology.queues}
        return name if key is None else keys.get(str(key), exchange)
    return f"the exchange {exchange}"


def _aside(topology: Topology, name: str, found: Found) -> str:
    to = _target(topology, name, found)
    return "dropped" if to in {None, name} else f"moved to {to}"


def _not_replicated() -> Effect:
    text = "its messages are not replicated: a broker that is lost takes them along"
    return Effect(Harm.LESS, text)


def _length(found: Found) -> str:
    """`1000 messages`, `1048576 bytes`, or nothing where there is no bound."""
    bounds = (("x-max-length", "messages"), ("x-max-length-bytes", "bytes"))
    given = [(found.arguments.get(name), unit) for name, unit in bounds]
    return " or ".join(f"{value} {unit}" for value, unit in given if value is not None)


def _time(milliseconds: int) -> str:
    return f"{milliseconds / 1000:g} s"


def _typed(text: str, kind: str | None) -> Any:
    if kind in _TEXTS:
        return text
    if kind in {"bool", "boolean"}:
        return text == "true"
    return int(text) if text.lstrip("-").isdecimal() else text


def _article(kind: str) -> str:
    return f"{'an' if kind[:1] in 'aeiou' else 'a'} {kind}"
