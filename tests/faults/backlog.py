"""Many relays on one outbox full of events: each is published, in the order of its order."""

from __future__ import annotations

import asyncio
import json
import time
import urllib.request
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import uuid_utils

from tests.faults.interference import session
from tests.faults.journal import Observed
from tests.faults.setting import EXCHANGE
from tests.faults.stage import POLL_SECONDS, Stage
from tests.patience import PATIENCE_SECONDS
from tests.processes import HOST

EVENTS_OF_AN_ORDER = 3
LEAST_PER_SECOND = 50
INSERT = """
    INSERT INTO outbox (event_id, event_type, aggregate_type, aggregate_id, exchange, routing_key,
                        payload, content_type, headers)
    VALUES (%s, 'OrderProcessed', 'order', %s, %s, 'order.processed', %s, 'application/json', '{}')
"""


@dataclass(frozen=True, slots=True)
class Event:
    event_id: str
    order_id: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class BacklogResult:
    """What became of `events` events; `shares` is what each process says it has published."""

    events: int
    seconds: float
    deliveries: int
    shares: list[int]
    wrong: list[str] = field(default_factory=list)

    @property
    def duplicated(self) -> int:
        """Deliveries of events that were observed before: allowed, and told."""
        return self.deliveries - self.events


async def race_for_events(stage: Stage, count: int) -> BacklogResult:
    """Fill the outbox while all processes stand still, let them all go at once, and judge."""
    before = [await asyncio.to_thread(_published, stage, each) for each in stage.services.running]
    already = len(stage.journals.observed.records)
    for number in stage.services.running:
        stage.services.freeze(number)
    events = _make(count)
    await asyncio.to_thread(_insert, stage, events)
    started = time.monotonic()
    for number in stage.services.running:
        stage.services.thaw(number)
    wrong = []
    try:
        async with asyncio.timeout(PATIENCE_SECONDS + count / LEAST_PER_SECOND):
            while not await _all_done(stage, events):
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        wrong.append("not at rest")
    seconds = time.monotonic() - started
    shares = await _shares(stage, before, count)
    observed = stage.journals.observed.records[already:]
    return BacklogResult(
        count,
        seconds,
        len(observed),
        shares,
        wrong + _judged(events, observed),
    )


def _make(count: int) -> list[Event]:
    """Those of one order are far apart, and numbered."""
    orders = -(-count // EVENTS_OF_AN_ORDER)
    return [
        Event(
            str(uuid_utils.uuid7()),
            f"backlog-{number % orders}",
            json.dumps({"orderId": f"backlog-{number % orders}", "number": number}).encode(),
        )
        for number in range(count)
    ]


def _insert(stage: Stage, events: list[Event]) -> None:
    with session(stage) as cursor:
        cursor.executemany(
            INSERT, [(each.event_id, each.order_id, EXCHANGE, each.payload) for each in events]
        )
        cursor.connection.commit()


async def _all_done(stage: Stage, events: list[Event]) -> bool:
    if not {each.event_id for each in events} <= stage.observer.seen:
        return False
    return (await asyncio.to_thread(stage.tables.backlog)).pending == 0


def _judged(events: list[Event], observed: list[Observed]) -> list[str]:
    wrong = []
    payloads = {each.event_id: each.payload for each in events}
    times = Counter(each.event_id for each in observed)
    if missing := payloads.keys() - times.keys():
        wrong.append(f"{len(missing)} events were not observed")
    if unknown := times.keys() - payloads.keys():
        wrong.append(f"{len(unknown)} events that are not in the outbox")
    if changed := [each for each in observed if payloads.get(str(each.event_id)) != each.payload]:
        wrong.append(f"{len(changed)} events with other bytes")
    if overtaken := _overtaken(observed):
        wrong.append(f"{len(overtaken)} orders whose events came out of order")
    return wrong


def _overtaken(observed: list[Observed]) -> set[str]:
    """Orders of which an event was first observed after a later one."""
    last, seen, overtaken = defaultdict[str, int](int), set[str | None](), set[str]()
    for each in observed:
        if each.event_id in seen:
            continue
        seen.add(each.event_id)
        said = json.loads(each.payload)
        if said["number"] < last[said["orderId"]]:
            overtaken.add(said["orderId"])
        last[said["orderId"]] = said["number"]
    return overtaken


async def _shares(stage: Stage, before: list[int], count: int) -> list[int]:
    """What each process has published since; that is counted later than it is written down."""
    latest = time.monotonic() + PATIENCE_SECONDS
    while True:
        running = stage.services.running
        after = [await asyncio.to_thread(_published, stage, each) for each in running]
        shares = [now - then for now, then in zip(after, before, strict=True)]
        if sum(shares) >= count or time.monotonic() > latest:
            return shares
        await asyncio.sleep(POLL_SECONDS)


def _published(stage: Stage, number: int) -> int:
    """How many events this process has published, by its metrics."""
    address = f"http://{HOST}:{stage.services[number].port}/metrics"
    with urllib.request.urlopen(address, timeout=PATIENCE_SECONDS) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("orders_relay_published_total "):
                return round(float(line.split()[1]))
    return 0
