from __future__ import annotations

from typing import Any

import pamqp.encode
import pytest

from service.publishing import Confirmed, ConfirmingPublisher, Rejected
from service.settings import Settings
from service.topology import Topology
from tests.factories import claimed_event


class Channel:
    """Encodes as the client library does, and confirms everything."""

    async def get_exchange(self, *_: Any, **__: Any) -> Channel:
        return self

    async def publish(self, message: Any, routing_key: str, mandatory: bool) -> None:
        pamqp.encode.short_string(message.correlation_id)


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

    outcomes = await publisher.publish(
        [claimed_event(correlation_id=text) for text in ("fine", "x" * 256)]
    )

    assert [type(outcome) for outcome in outcomes] == [Confirmed, Rejected]
