"""What is there at the broker, told from its refusals; and what it costs."""

from __future__ import annotations

from typing import Any

import pytest

from service.config.settings import Settings
from service.rabbitmq.compatibility import Found, Harm, exchange_effects, queue_effects
from service.rabbitmq.declaration import learn
from service.rabbitmq.topology import Topology

TOPOLOGY = Topology.of(Settings())
INCOMING = TOPOLOGY.incoming.arguments
WORDS = "PRECONDITION_FAILED - inequivalent arg {} in vhost '/': received {} but current is {}"


def words(name: str, received: str, current: str, of: str = "queue 'q'") -> str:
    return WORDS.format(f"'{name}' for {of}", received, current)


def harms(name: str, found: Found) -> set[Harm]:
    return {effect.harm for effect in queue_effects(TOPOLOGY, name, found)}


def incoming(**arguments: Any) -> Found:
    """The incoming queue as we make it, but for these arguments; None leaves one out."""
    named = {f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}
    merged = INCOMING | named
    return Found(arguments={name: each for name, each in merged.items() if each is not None})


def outgoing(**arguments: Any) -> Found:
    named = {f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}
    return Found(arguments={"x-queue-type": "quorum"} | named)


def text(name: str, found: Found) -> str:
    return "; ".join(effect.text for effect in queue_effects(TOPOLOGY, name, found))


# What the broker tells.


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (
            words("type", "'topic'", "'fanout'", "exchange 'e'"),
            Found(type="fanout"),
        ),
        (words("durable", "'true'", "'false'"), Found(durable=False)),
        (words("auto_delete", "'false'", "'true'"), Found(auto_delete=True)),
        (words("internal", "'false'", "'true'", "exchange 'e'"), Found(internal=True)),
        (
            words("x-queue-type", "'quorum'", "'stream'"),
            Found(arguments={"x-queue-type": "stream"}),
        ),
        (
            words("x-expires", "none", "the value '100' of type 'signedint'"),
            Found(arguments={"x-expires": 100}),
        ),
        (
            words("x-single-active-consumer", "none", "the value 'true' of type 'bool'"),
            Found(arguments={"x-single-active-consumer": True}),
        ),
        (
            words("x-dead-letter-exchange", "none", "the value 'it's' of type 'longstr'"),
            Found(arguments={"x-dead-letter-exchange": "it's"}),
        ),
        ("PRECONDITION_FAILED - something else", Found()),
    ],
)
def test_a_refusal_tells_what_is_there(said: str, found: Found) -> None:
    assert Found().corrected_by(said) == found


def test_an_argument_that_is_not_there_is_left_out() -> None:
    said = words("x-overflow", "the value 'reject-publish' of type 'longstr'", "none")
    assert Found(arguments={"x-overflow": "reject-publish"}).corrected_by(said) == Found()


async def test_all_differences_are_learned_one_after_the_other() -> None:
    there = Found(durable=False, arguments={"x-expires": 5, "x-max-length": 7})

    async def declare(found: Found) -> str | None:
        if found.durable:
            return words("durable", "'true'", "'false'")
        for name, value in there.arguments.items():
            if found.arguments.get(name) != value:
                return words(name, "none", f"the value '{value}' of type 'signedint'")
        return None

    first, found = await learn(declare, Found())
    assert found == there
    assert "durable" in str(first)


async def test_words_that_nobody_understands_end_the_learning() -> None:
    asked = []

    async def declare(found: Found) -> str | None:
        asked.append(found)
        return "PRECONDITION_FAILED - who knows"

    assert await learn(declare, Found()) == ("PRECONDITION_FAILED - who knows", Found())
    assert len(asked) == 1


async def test_a_broker_that_contradicts_itself_is_not_asked_for_ever() -> None:
    async def declare(found: Found) -> str | None:
        other = "'false'" if found.durable else "'true'"
        return words("durable", "'?'", other)

    first, _ = await learn(declare, Found())
    assert first is not None


# What it costs: the exchange.


@pytest.mark.parametrize("kind", ["fanout", "headers", "x-delayed-message", "x-consistent-hash"])
def test_an_exchange_that_does_not_go_by_our_keys_alone_is_refused(kind: str) -> None:
    assert Harm.REFUSED in {effect.harm for effect in exchange_effects(Found(type=kind))}


@pytest.mark.parametrize(
    ("found", "harm"),
    [
        (Found(type="direct"), Harm.LESS),
        (Found(internal=True), Harm.REFUSED),
        (Found(durable=False), Harm.BROKEN),
        (Found(auto_delete=True), Harm.BROKEN),
        (Found(arguments={"alternate-exchange": "else"}), Harm.LESS),
    ],
)
def test_what_else_an_exchange_may_be(found: Found, harm: Harm) -> None:
    assert [effect.harm for effect in exchange_effects(found)] == [harm]


# What it costs: the incoming queue.


def test_our_own_queues_cost_nothing() -> None:
    for queue in TOPOLOGY.queues:
        assert queue_effects(TOPOLOGY, queue.name, Found(arguments=queue.arguments)) == []


@pytest.mark.parametrize(
    "found",
    [
        Found(arguments={"x-queue-type": "stream"}),
        Found(durable=False),
        Found(auto_delete=True),
    ],
)
def test_an_incoming_queue_that_forgets_confirmed_orders_is_refused(found: Found) -> None:
    assert Harm.REFUSED in harms("order_created_queue", found)


@pytest.mark.parametrize(
    ("found", "harm", "part"),
    [
        (incoming(message_ttl=60000), Harm.BROKEN, "60 s is moved to order_dlq unread"),
        (
            incoming(message_ttl=60000, dead_letter_exchange=None, delivery_limit=None),
            Harm.BROKEN,
            "60 s is dropped unread",
        ),
        (incoming(max_length=5, overflow=None), Harm.BROKEN, "beyond 5 messages the oldest"),
        (incoming(max_length_bytes=9, overflow="drop-head"), Harm.BROKEN, "beyond 9 bytes"),
        (incoming(max_length=5, overflow="reject-publish-dlx"), Harm.LESS, "refused is moved"),
        (incoming(expires=90000), Harm.BROKEN, "no service runs for 90 s"),
        (incoming(single_active_consumer=True), Harm.LESS, "one process takes orders"),
        (incoming(queue_type="classic", max_priority=9), Harm.LESS, "overtake"),
        (incoming(queue_type="classic"), Harm.LESS, "not replicated"),
        (incoming(dead_letter_exchange=None), Harm.BROKEN, "dropped after 20 deliveries"),
        (incoming(delivery_limit=None), Harm.LESS, "comes again and again"),
        (
            incoming(dead_letter_routing_key="order_created_queue"),
            Harm.BROKEN,
            "it would go round",
        ),
        (
            incoming(dead_letter_exchange="order_events", dead_letter_routing_key="order.created"),
            Harm.BROKEN,
            "it would go round",
        ),
        (
            incoming(dead_letter_exchange="order_events", dead_letter_routing_key="order.failed"),
            Harm.BROKEN,
            "moved to order_failed_queue",
        ),
        (incoming(dead_letter_exchange="elsewhere"), Harm.LESS, "the exchange elsewhere"),
        (incoming(dead_letter_strategy=None), Harm.LESS, "at-most-once"),
    ],
)
def test_what_an_argument_of_the_incoming_queue_costs(found: Found, harm: Harm, part: str) -> None:
    effects = queue_effects(TOPOLOGY, "order_created_queue", found)
    assert [effect.harm for effect in effects if part in effect.text] == [harm]
    assert max(effect.harm for effect in effects) is harm


def test_a_bound_that_refuses_its_senders_costs_nothing() -> None:
    assert queue_effects(TOPOLOGY, "order_created_queue", incoming(max_length=5)) == []


def test_a_limit_that_rabbitmq_sets_by_itself_drops_where_nothing_is_dead_lettered() -> None:
    found = Found(arguments={"x-queue-type": "quorum"})
    assert harms("order_created_queue", found.by("3.10.8")) == {Harm.LESS}
    assert harms("order_created_queue", found.by("4.3.6")) == {Harm.BROKEN}
    assert harms("order_created_queue", found.by("")) == {Harm.LESS}


# What it costs: the others.


@pytest.mark.parametrize(
    ("name", "found", "harm", "part"),
    [
        ("order_dlq", outgoing(message_ttl=1000), Harm.LESS, "nobody reads for 1 s is dropped"),
        (
            "order_dlq",
            outgoing(
                message_ttl=1000,
                dead_letter_exchange="",
                dead_letter_routing_key="order_created_queue",
            ),
            Harm.LESS,
            "decided anew",
        ),
        (
            "order_processed_queue",
            outgoing(dead_letter_exchange="order_events", dead_letter_routing_key="order.created"),
            Harm.BROKEN,
            "our own events come back as work",
        ),
        (
            "order_failed_queue",
            outgoing(max_length=3),
            Harm.LESS,
            "the oldest messages are dropped",
        ),
        (
            "order_failed_queue",
            outgoing(max_length=3, overflow="reject-publish"),
            Harm.LESS,
            "wait in the outbox",
        ),
        ("order_dlq", outgoing(expires=1000), Harm.LESS, "nobody reads it for 1 s"),
        ("order_dlq", outgoing(queue_type="stream"), Harm.LESS, "retention"),
        ("order_dlq", outgoing(queue_type="classic"), Harm.LESS, "not replicated"),
        ("order_dlq", Found(durable=False), Harm.BROKEN, "the broker restarts"),
        ("order_dlq", Found(auto_delete=True), Harm.BROKEN, "its last reader leaves"),
    ],
)
def test_what_an_argument_of_another_queue_costs(
    name: str, found: Found, harm: Harm, part: str
) -> None:
    assert part in text(name, found)
    assert max(harms(name, found)) is harm


# Policies.


def test_a_policy_counts_like_an_argument() -> None:
    found = incoming().under_policy({"message-ttl": 1000})
    assert harms("order_created_queue", found) == {Harm.BROKEN}


def test_of_two_limits_the_smaller_one_holds_and_else_the_argument() -> None:
    found = incoming(delivery_limit=9).under_policy(
        {"delivery-limit": 3, "dead-letter-routing-key": "elsewhere"}
    )
    assert found.arguments["x-delivery-limit"] == 3
    assert found.arguments["x-dead-letter-routing-key"] == "order_dlq"
