"""Names, keys and arguments of what is at the broker."""

from __future__ import annotations

from service.config.settings import Settings
from service.rabbitmq.topology import Topology

TOPOLOGY = Topology.of(Settings())


def test_the_names_and_keys_are_those_of_the_contract() -> None:
    assert TOPOLOGY.exchange == "order_events"
    assert {queue.name: queue.binding_key for queue in TOPOLOGY.queues} == {
        "order_created_queue": "order.created",
        "order_processed_queue": "order.processed",
        "order_failed_queue": "order.failed",
        "order_dlq": "order.dead_letter",
    }


def test_what_is_published_is_bound_to_the_key_it_is_published_under() -> None:
    assert TOPOLOGY.processed.binding_key == TOPOLOGY.processed_key
    assert TOPOLOGY.failed.binding_key == TOPOLOGY.failed_key
    assert TOPOLOGY.dead_letters.binding_key == TOPOLOGY.dead_letter_key


def test_the_settings_name_everything() -> None:
    settings = Settings(
        incoming_order_queue="in",
        outgoing_processed_queue="out",
        outgoing_failed_queue="bad",
        dlq_queue="dead",
        events_exchange="events",
        delivery_limit=7,
    )
    topology = Topology.of(settings)
    assert [queue.name for queue in topology.queues] == ["dead", "out", "bad", "in"]
    assert topology.exchange == "events"
    assert topology.incoming.arguments["x-dead-letter-routing-key"] == "dead"
    assert topology.incoming.arguments["x-delivery-limit"] == 7


def test_every_queue_is_replicated() -> None:
    assert all(queue.arguments["x-queue-type"] == "quorum" for queue in TOPOLOGY.queues)


def test_a_crash_loop_is_moved_aside_and_nothing_is_lost_on_the_way() -> None:
    assert TOPOLOGY.incoming.arguments == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 20,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "order_dlq",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }


def test_no_outgoing_queue_drops_or_limits_anything() -> None:
    for queue in (TOPOLOGY.processed, TOPOLOGY.failed, TOPOLOGY.dead_letters):
        assert queue.arguments == {"x-queue-type": "quorum"}
