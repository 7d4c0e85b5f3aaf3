"""Faults of a cluster of three brokers behind a load balancer, and the long run of them.

    python -m tests.faults.cluster_faults --cycles 50 --seed 1 --report cluster.json

The services, the producer and the observer know the load balancer's address alone. These faults are
of no use to a stage with one broker, so they are none of the campaign's own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, cast

import typer

from tests.faults.__main__ import commit
from tests.faults.campaign import Campaign, Plan, Report
from tests.faults.cluster_stage import (
    all_at_work,
    assert_no_attempt_was_spent,
    cluster_of,
    leader_of,
    order_through,
)
from tests.faults.registry import Fault, Inject, Measurement
from tests.faults.setting import INCOMING, OUTPUTS, Servers, StageOptions
from tests.faults.stage import Stage
from tests.servers import AnyDatabase, AnyRabbit, ServersError, private_database
from tests.servers.cluster import SIZE, RabbitCluster
from tests.servers.place import chosen_place

PROCESSED = OUTPUTS[0]
# A leader that falls silent is given up by its peers, and links to it by their clients, first.
NOTICED_SECONDS = 35.0
LONGEST_HOLD_SECONDS = 8.0

OPTIONS = StageOptions()


async def kill_leader(stage: Stage, rng: random.Random, queue: str) -> list[Measurement]:
    """The node that leads this queue dies, and comes back a while later."""
    cluster = cluster_of(stage)
    leader = await leader_of(stage, queue)
    await asyncio.to_thread(cluster.nodes[leader].kill)
    found = await all_at_work(stage, f"the leader of {queue} was killed", time.time())
    await asyncio.sleep(rng.uniform(0, LONGEST_HOLD_SECONDS))
    await asyncio.to_thread(cluster.revive)
    return [*found, *await all_at_work(stage, "a killed node came back", time.time())]


async def kill_leader_of_incoming(stage: Stage, rng: random.Random) -> list[Measurement]:
    return await kill_leader(stage, rng, INCOMING)


async def kill_leader_of_processed(stage: Stage, rng: random.Random) -> list[Measurement]:
    return await kill_leader(stage, rng, PROCESSED)


async def rolling_restart(stage: Stage, rng: random.Random) -> list[Measurement]:
    """One node after the other is stopped and started, as for an upgrade."""
    cluster = cluster_of(stage)
    found: list[Measurement] = []
    for number in rng.sample(range(SIZE), SIZE):
        await asyncio.to_thread(cluster.nodes[number].stop)
        found += await all_at_work(stage, "a node was stopped", time.time())
        await asyncio.to_thread(cluster.revive)
        await leader_of(stage, INCOMING)
    return found


async def partition(stage: Stage, rng: random.Random, *, silently: bool) -> list[Measurement]:
    """The leader of the incoming queue alone on one side, its peers on the other; then it heals."""
    cluster = cluster_of(stage)
    leader = await leader_of(stage, INCOMING)
    how = "that drops packets" if silently else "that resets connections"
    found: list[Measurement] = []
    await asyncio.to_thread(cluster.isolate, leader, silently=silently)
    try:
        # Nothing is asked of those whose link is to a minority that does not pause: they wait
        # there, and that may be all.
        if cluster.pauses_minority:
            began, since = time.time(), f"a partition {how} began"
            found.append(await order_through(stage, since, began, NOTICED_SECONDS))
        await asyncio.sleep(rng.uniform(0, 2 * LONGEST_HOLD_SECONDS))
    finally:
        await asyncio.to_thread(cluster.heal)
    healed = time.time()
    found += await all_at_work(stage, f"a partition {how} healed", healed)
    await asyncio.to_thread(cluster.revive)
    return found


async def partition_that_resets(stage: Stage, rng: random.Random) -> list[Measurement]:
    return await partition(stage, rng, silently=False)


async def partition_that_drops(stage: Stage, rng: random.Random) -> list[Measurement]:
    return await partition(stage, rng, silently=True)


async def lose_majority(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Two of three nodes die, the leader of the incoming queue among them, and come back."""
    cluster = cluster_of(stage)
    leader = await leader_of(stage, INCOMING)
    other = rng.choice([number for number in range(SIZE) if number != leader])
    for number in (leader, other):
        await asyncio.to_thread(cluster.nodes[number].kill)
    await asyncio.sleep(rng.uniform(0, 2 * LONGEST_HOLD_SECONDS))
    await asyncio.to_thread(cluster.revive)
    return await all_at_work(stage, "the majority was back", time.time())


async def shatter(stage: Stage, rng: random.Random) -> list[Measurement]:
    """No node reaches another one: all run, and none has a majority."""
    cluster = cluster_of(stage)
    await asyncio.to_thread(cluster.isolate, *range(SIZE), silently=rng.choice((True, False)))
    try:
        await asyncio.sleep(rng.uniform(LONGEST_HOLD_SECONDS, 4 * LONGEST_HOLD_SECONDS))
    finally:
        await asyncio.to_thread(cluster.heal)
    await asyncio.to_thread(cluster.revive)
    return await all_at_work(stage, "all nodes met again", time.time())


FAULTS: dict[str, Inject] = {
    "kill-leader-of-incoming": kill_leader_of_incoming,
    "kill-leader-of-processed": kill_leader_of_processed,
    "rolling-restart": rolling_restart,
    "partition-that-resets": partition_that_resets,
    "partition-that-drops": partition_that_drops,
    "lose-majority": lose_majority,
    "shatter": shatter,
}


def sparing_attempts(inject: Inject) -> Inject:
    """The fault, and afterwards no event has been charged for it."""

    async def injected(stage: Stage, rng: random.Random) -> list[Measurement]:
        found = await inject(stage, rng)
        assert_no_attempt_was_spent(stage)
        return found

    return injected


@contextmanager
def clustered() -> Iterator[Servers]:
    """A database server, and a cluster in place of one broker."""
    database, cluster = private_database(), RabbitCluster.find(chosen_place())
    with ExitStack() as running:
        with ThreadPoolExecutor() as pool:
            for started in [
                pool.submit(running.enter_context, each) for each in (database, cluster)
            ]:
                started.result()
        yield servers_of(database, cluster)


def servers_of(database: AnyDatabase, cluster: RabbitCluster) -> Servers:
    """A cluster has all that a stage asks of its broker."""
    return Servers(database, cast("AnyRabbit", cluster))


def faults_named(names: Sequence[str]) -> tuple[Fault, ...]:
    return tuple(Fault(name, sparing_attempts(FAULTS[name]), options=OPTIONS) for name in names)


async def run(plan: Plan, folder: Path, servers: Servers) -> Report:
    """The campaign of a plan, on a cluster; where something is wrong, the nodes' logs are kept."""
    report = await Campaign(plan, folder, servers=servers, commit=commit(), judges_speed=True).run()
    if report.evidence is not None:
        cluster: object = servers.broker
        assert isinstance(cluster, RabbitCluster)
        cluster.keep_logs(report.evidence)
    return report


def main(
    *,
    seed: Annotated[int, typer.Option(help="What is left to chance is drawn from it.")] = 1,
    cycles: Annotated[int, typer.Option(min=1, help="Faults, one after the other.")] = len(FAULTS),
    first: Annotated[int, typer.Option(min=1, help="Start at this cycle of the seed.")] = 1,
    rate: Annotated[float, typer.Option(min=1, help="Messages per second.")] = 60,
    only: Annotated[str, typer.Option(help="Faults, comma-separated; else all.")] = "",
    report: Annotated[Path | None, typer.Option(help="Write the report here, as JSON.")] = None,
) -> None:
    """Break a cluster of three brokers under load, and judge after each fault."""
    # Told to end, it ends as by Ctrl-C: its servers and services end with it.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    for noisy in ("aiormq", "aio_pika"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)
    names = [name.strip() for name in only.split(",") if name.strip()] or list(FAULTS)
    if unknown := sorted(set(names) - set(FAULTS)):
        sys.exit(f"No such fault: {', '.join(unknown)}. There are: {', '.join(FAULTS)}")
    plan = Plan(seed, cycles, 0, rate, faults_named(names), first)
    folder = Path(tempfile.mkdtemp(prefix="orders-cluster-"))
    try:
        with clustered() as servers:
            found = asyncio.run(run(plan, folder, servers))
    except ServersError as error:
        sys.exit(f"{error}\nJournals and logs: {folder}")
    except KeyboardInterrupt:
        sys.exit("Ended before it was done; the servers are gone.")
    told = json.dumps(found.as_json(), indent=2) + "\n"
    typer.echo(told)
    if report is not None:
        report.write_text(told)
    if found.wrong:
        sys.exit("\n".join([*found.wrong, f"Evidence: {found.evidence}"]))
    shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
