from __future__ import annotations

from typing import Any

import pamqp.encode
import pytest

from service.config.settings import Settings
from service.domain.errors import BrokerAwayError
from service.outbox.publisher import Confirmed, ConfirmingPublisher, Rejected
from service.rabbitmq.topology import Topology
from tests.factories import claimed_event


class Channel:
    """Encodes as the client library does, and confirms everything."""

    max_content_size = 131_064

    async def basic_publish(self, _: bytes, *, properties: Any, **__: Any) -> None:
        pamqp.encode.short_string(properties.correlation_id)


def publisher_on(channel: Any, monkeypatch: pytest.MonkeyPatch) -> ConfirmingPublisher:
    publisher = ConfirmingPublisher(
        "amqp://broker/",
        Topology.of(Settings()),
        tls=None,
        connect_timeout_seconds=1,
        publish_timeout_seconds=1,
    )

    async def opened() -> Any:
        return channel

    monkeypatch.setattr(publisher, "_open", opened)
    return publisher


class Closing(Channel):
    """Ends what waits as aiormq does on a connection that is closed without a reason."""

    async def basic_publish(self, *_: Any, **__: Any) -> None:
        raise Exception  # noqa: TRY002 - it is what the library raises


async def test_a_connection_that_is_closed_without_a_reason_is_the_brokers_absence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(BrokerAwayError):
        await publisher_on(Closing(), monkeypatch).publish([claimed_event()])


async def test_an_event_that_cannot_be_encoded_is_rejected_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = ("fine", "x" * 256)
    outcomes = await publisher_on(Channel(), monkeypatch).publish(
        [claimed_event(correlation_id=text) for text in texts]
    )

    assert [type(outcome) for outcome in outcomes] == [Confirmed, Rejected]
