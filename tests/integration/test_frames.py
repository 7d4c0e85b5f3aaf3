"""A broker whose frames are smaller than RabbitMQ's default."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from db.engine import Database
from db.models import DeadLetter
from service.config.settings import Settings
from tests.harness import Wire, eventually, rows, running
from tests.integration.steps import all_published, send
from tests.servers import AnyRabbit, GivenRabbit

SMALL_FRAME = 8192
HEADER_BYTES = 7900


@pytest.fixture
def small_frames(rabbit_server: AnyRabbit) -> Iterator[None]:
    """Of connections that are opened from now on."""
    if isinstance(rabbit_server, GivenRabbit):
        pytest.skip("the broker is not ours to configure")
    setting = "application:{}_env(rabbit, frame_max{})."
    usual = rabbit_server.ctl("eval", setting.format("get", "")).strip().strip("{}").split(",")[1]
    rabbit_server.ctl("eval", setting.format("set", f", {SMALL_FRAME}"))
    yield
    rabbit_server.ctl("eval", setting.format("set", f", {usual}"))


async def test_a_dead_letter_whose_headers_fit_no_frame_is_published_without_them(
    small_frames: None, settings: Settings, database: Database, wire: Wire
) -> None:
    sent = {"note": "x" * HEADER_BYTES}
    async with running(settings):
        await wire.listen("order_dlq")
        await wire.send(b"no JSON", headers=sent)
        await wire.send(b"no JSON either", headers={"note": "small"})
        await send(wire, range(3))
        await eventually(lambda: all_published(database, 7))
        copies = {each.body: each for each in await wire.hear("order_dlq", 2)}

    large, small = copies[b"no JSON"].headers, copies[b"no JSON either"].headers
    assert "note" not in large
    assert large["x-original-headers"] == "kept in the database only: too large"
    assert large["x-failure-reason"] == small["x-failure-reason"] == "INVALID_JSON"
    assert small["note"] == "small"
    kept = {each.body: each.headers for each in await rows(database, DeadLetter)}
    assert kept[b"no JSON"] == sent
