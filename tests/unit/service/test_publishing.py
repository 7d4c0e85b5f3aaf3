from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pamqp.encode
import pytest

from db.outbox import ClaimedEvent
from service.publishing import Confirmed, ConfirmingPublisher, Rejected
from service.settings import Settings
from service.topology import Topology


class Channel:
    """Encodes as the client library does, and confirms everything."""

    async def get_exchange(self, *_: Any, **__: Any) -> Channel:
        return self

    async def publish(self, message: Any, routing_key: str, mandatory: bool) -> None:
        pamqp.encode.short_string(message.correlation_id)


def event(correlation_id: str) -> ClaimedEvent:
    return ClaimedEvent(
        id=1,
        event_id="event-1",
        event_type="OrderProcessed",
        exchange="order_events",
        routing_key="order.processed",
        payload=b"{}",
        content_type=None,
        correlation_id=correlation_id,
        headers={},
        created_at=datetime.now(UTC),
        attempts=0,
    )


async def test_an_event_that_cannot_be_encoded_is_rejected_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publisher = ConfirmingPublisher(
        "amqp://broker/",
        Topology.of(Settings()),
        tls=None,
        connect_timeout_seconds=1,
        heartbeat_seconds=10,
        publish_timeout_seconds=1,
    )

    async def opened() -> Channel:
        return Channel()

    monkeypatch.setattr(publisher, "_open", opened)

    outcomes = await publisher.publish([event("fine"), event("x" * 256)])

    assert [type(outcome) for outcome in outcomes] == [Confirmed, Rejected]
