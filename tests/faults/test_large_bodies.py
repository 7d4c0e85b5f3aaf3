"""A body too large for a row goes to the dead-letter queue without the outbox: as it was before."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from service.storage import migrate, open_database
from tests.faults.framing import AMQPFraming, Moment
from tests.faults.proxied_link import Action
from tests.faults.proxy import Proxy, Trap
from tests.harness import Wire, running, settings_for
from tests.integration.steps import DLQ
from tests.servers import AnyRabbit

TOO_LARGE_TO_STORE = b"x" * (1024 * 1024 + 1)


def through(proxy: Proxy, url: str) -> str:
    """The same place, by way of the proxy."""
    parts = urlsplit(url)
    account, _, _ = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{account}@{proxy.host}:{proxy.port}").geturl()


@pytest.mark.servers
async def test_a_large_body_whose_ack_is_cut_off_is_passed_on_again_as_it_was(
    rabbit_server: AnyRabbit, database_url: str, mq_url: str
) -> None:
    async with Proxy(AMQPFraming, rabbit_server.host, rabbit_server.port) as proxy:
        settings = settings_for(database_url=database_url, mq_url=through(proxy, mq_url))
        database = open_database(settings)
        await migrate(database)
        await database.dispose()
        async with running(settings), Wire.connected(mq_url) as wire:
            await wire.listen(DLQ)
            proxy.arm(Trap(Moment.ACK, Action.CUT))
            await wire.send(TOO_LARGE_TO_STORE)
            first, again = await wire.hear(DLQ, 2)
    assert (again.message_id, again.body) == (first.message_id, first.body)
    assert again.headers == first.headers
    assert again.timestamp == first.timestamp
