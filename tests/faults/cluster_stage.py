"""What is asked of a stage whose broker is a cluster: who leads, and how soon all work again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Iterable

from tests.faults.journal import Observed
from tests.faults.producer import CONFIRM_SECONDS
from tests.faults.registry import Measurement
from tests.faults.stage import Stage
from tests.servers import ServerFailed
from tests.servers.cluster import RabbitCluster

BACK_SECONDS = 15.0
# The producer is on the way too: it gives up a link that confirms nothing only after a while.
THROUGH_SECONDS = BACK_SECONDS + CONFIRM_SECONDS
LONGEST_SECONDS = 60.0
POLL_SECONDS = 0.1


async def leader_of(stage: Stage, queue: str) -> int:
    """Which node leads it; where nobody does yet, that is awaited."""
    cluster = cluster_of(stage)
    async with asyncio.timeout(LONGEST_SECONDS):
        while True:
            try:
                return await asyncio.to_thread(cluster.leader_of, stage.vhost, queue)
            except (LookupError, ServerFailed):
                await asyncio.sleep(POLL_SECONDS)


def cluster_of(stage: Stage) -> RabbitCluster:
    cluster: object = stage.broker
    assert isinstance(cluster, RabbitCluster), "these faults need a cluster"
    return cluster


async def order_through(
    stage: Stage, since: str, moment: float, bound: float = THROUGH_SECONDS
) -> Measurement:
    """How long after that moment an order that is sent from now on has gone all the way.

    Raises:
        TimeoutError: none has.
    """
    attempts, observed = stage.journals.attempts.records, stage.journals.observed.records
    sent, heard = len(attempts), len(observed)
    async with asyncio.timeout(LONGEST_SECONDS):
        while not _heard({each.trace for each in attempts[sent:]}, observed[heard:]):
            await asyncio.sleep(POLL_SECONDS)
    return Measurement(f"first order through after {since}", time.time() - moment, bound)


async def all_at_work(stage: Stage, since: str, moment: float) -> list[Measurement]:
    """How long after that moment an order is stored, one goes all the way, each process decides.

    Raises:
        TimeoutError: one decides nothing: it may look alive and consume nothing.
    """
    processes = [stage.services[number] for number in stage.services.running]
    before = [await asyncio.to_thread(process.decided) for process in processes]
    stored, through = await asyncio.gather(
        stage.first_order_after(moment), order_through(stage, since, moment)
    )
    async with asyncio.timeout(LONGEST_SECONDS):
        for process, count in zip(processes, before, strict=True):
            while await asyncio.to_thread(process.decided) <= count:
                await asyncio.sleep(POLL_SECONDS)
    at_work = time.time() - moment
    return [
        Measurement(f"first order after {since}", stored, BACK_SECONDS),
        through,
        Measurement(f"every process at work after {since}", at_work, THROUGH_SECONDS),
    ]


def _heard(traces: Collection[str | None], observed: Iterable[Observed]) -> bool:
    """Whether an order with such a trace was stored, and its event published and delivered."""
    return any(each.type == "OrderProcessed" and each.correlation_id in traces for each in observed)


def assert_no_attempt_was_spent(stage: Stage) -> None:
    """A broker that cannot store anything now is no fault of an event's."""
    for number in stage.services.running:
        if spent := stage.services[number].told("event-retried"):
            raise AssertionError(f"{len(spent)} attempts of events were spent: {spent[0]}")
