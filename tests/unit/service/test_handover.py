from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from service.outbox.handover import Handover, Lease
from tests.factories import claimed_event
from tests.patience import PATIENCE_SECONDS


def handover(*, capacity: int = 10) -> Handover:
    there = Handover(capacity=capacity, lease_seconds=60)
    there.open = True
    return there


def leased(there: Handover) -> Lease:
    lease = there.lease()
    assert lease is not None
    return lease


def test_no_lease_is_given_before_the_relay_keeps_up() -> None:
    assert Handover(capacity=10, lease_seconds=60).lease() is None


def test_events_are_taken_in_the_order_in_which_they_were_given() -> None:
    there, events = handover(), [claimed_event() for _ in range(3)]
    there.give(events[:2], leased(there))
    there.give(events[2:], leased(there))

    assert there.take(2) == events[:2]
    assert there.take(2) == events[2:]
    assert there.take(2) == []


def test_a_full_handover_gives_no_more_leases_until_some_are_taken() -> None:
    there = handover(capacity=2)
    there.give([claimed_event(), claimed_event()], leased(there))

    assert there.lease() is None
    there.take(1)
    assert there.lease()


def test_what_has_lain_for_half_of_its_lease_is_left_to_a_claim(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there, now = handover(), [1000.0]
    monkeypatch.setattr("service.outbox.handover.time.monotonic", lambda: now[0])
    old, young = claimed_event(), claimed_event()
    there.give([old], leased(there))
    now[0] += 29
    there.give([young], leased(there))
    now[0] += 1

    assert there.take(2) == [young]


async def test_waiting_ends_with_news_of_any_kind_and_with_the_end() -> None:
    there = handover()
    ways: list[Callable[[], None]] = [
        lambda: there.give([claimed_event()], leased(there)),
        there.tell,
        there.wake,
        there.close,
    ]
    for news in ways:
        waiting = asyncio.create_task(there.wait(60))
        await asyncio.sleep(0)
        assert not waiting.done()
        news()
        async with asyncio.timeout(PATIENCE_SECONDS):
            await waiting


async def test_waiting_ends_without_news_after_the_time_given() -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await handover().wait(0.01)


async def test_intake_waits_for_room_while_the_relay_keeps_up_and_not_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = handover(capacity=1)
    await there.room()
    there.give([claimed_event()], leased(there))
    waiting = asyncio.create_task(there.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    there.take(1)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await waiting

    there.give([claimed_event()], leased(there))
    monkeypatch.setattr("service.outbox.handover.LONGEST_WAIT_SECONDS", 0.01)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await there.room()
    monkeypatch.setattr("service.outbox.handover.LONGEST_WAIT_SECONDS", 60)
    waiting = asyncio.create_task(there.room())
    await asyncio.sleep(0)
    assert not waiting.done()
    there.close()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await waiting
        await there.room()
