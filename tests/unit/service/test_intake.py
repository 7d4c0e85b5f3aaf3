from __future__ import annotations

import asyncio
from typing import Any

import pytest

from db.engine import Database
from order_contracts import FailureReason
from service.config.settings import Settings
from service.consumer.batcher import Intake
from service.consumer.recorded import Recorded
from service.domain.errors import DatabaseAwayError, Refusal
from service.inbound import Refused
from service.observability import Metrics
from service.outbox.envelope import Events
from service.outbox.handover import Handover
from service.outbox.publisher import InProcessPublisher
from service.rabbitmq.topology import Topology
from tests.factories import delivery


class AwayDatabase(Database):
    """Refuses every transaction, as a closed port does."""

    def __init__(self) -> None: ...

    def transaction(self) -> Any:
        raise ConnectionRefusedError


def intake_of(database: Database) -> Intake:
    return Intake(
        database,
        Events(Topology.of(Settings())),
        Metrics(),
        batch_size=10,
        handover=Handover(capacity=1, lease_seconds=60),
        recorded=Recorded(database),
        large=InProcessPublisher(None),  # type: ignore[arg-type]
    )


def refused() -> Refused:
    return Refused(Refusal(FailureReason.INVALID_JSON, "body: not JSON"), delivery(b""))


async def test_an_intake_that_was_abandoned_and_resumes_no_longer_counts_as_away() -> None:
    intake = intake_of(AwayDatabase())
    waiting = asyncio.create_task(intake.submit(refused()))
    await asyncio.sleep(0)
    intake.abandon()

    await intake.run_once()

    with pytest.raises(DatabaseAwayError):
        await waiting
    assert intake.away_since is not None
    intake.resume()
    assert intake.away_since is None


async def test_a_defect_of_ours_leaves_nobody_waiting_for_a_batch_that_is_in_no_hands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    intake = intake_of(AwayDatabase())
    subjects = [refused() for _ in range(3)]
    waiting = [asyncio.create_task(intake.submit(each)) for each in subjects]
    await asyncio.sleep(0)
    with monkeypatch.context() as broken:
        broken.setattr("service.consumer.batcher.classify", None)
        with pytest.raises(TypeError):
            await intake.run_once()

    intake.abandon()
    assert await intake.run_once() == 3, "the supervisor starts it again, and it begins with them"

    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in ended] == [DatabaseAwayError] * 3
