"""What must not grow with anything: claim, throughput and memory beside a large outbox; what an
idle service costs; how long starting takes; and, in a run of its own, memory over many orders.

States of the outbox: empty; 1,000,000 pending rows, as after an outage, over which the service is
started; 5,000,000 published rows, as a retention of days keeps them. `scale` makes them smaller.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection

from benchmarks.contestants import CONTESTANTS, Running
from benchmarks.measure import (
    until_consuming,
    until_first_delivery,
    until_processed,
    until_settled,
)
from benchmarks.stage import Servers, Stage, Wrong
from benchmarks.workload import messages
from db import orders, outbox
from service.database import open_database
from tests.servers import AnyDatabase

SERVICE = CONTESTANTS[0]
PENDING, PUBLISHED = 1_000_000, 5_000_000
STATES = ("empty", "pending", "published")
LOAD_ROWS = 50_000
CLAIMS, ROUNDS = 100, 3
STATEMENT_ROWS = 200
LEASE_SECONDS = 60
LONG_RUN_STEP = 5_000
STARTS = 3
STALL_SECONDS = 60.0
POLL_SECONDS = 0.05
MILLI = 1000
DIRTY = "SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'"
DIRTY_PAGES = 200
WRITING_SECONDS = 120.0


@dataclass(frozen=True)
class State:
    """The service beside an outbox in one state."""

    state: str
    rows: int
    claim_milliseconds: float
    control_milliseconds: float
    """The same claim from an outbox that holds nothing else, timed in turns with this one."""
    rows_locked: int
    orders: int
    orders_per_second: float
    control_per_second: float
    peak_megabytes: float
    plans: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Growth:
    """Everything that this mode found."""

    states: list[State]
    idle: dict[str, float]
    start_seconds: list[float]


@dataclass(frozen=True)
class Memory:
    """One process over many orders."""

    steps: list[tuple[int, float]]
    """Resident MiB after so many orders."""
    repeated: int
    """Events that came more than once, which is allowed."""


async def growth(
    servers: Servers,
    *,
    scale: float,
    orders_per_state: int,
    idle_seconds: float,
    tell: Callable[[str], None],
) -> Growth:
    """Measure everything, one after the other.

    Raises:
        Wrong: the service did not do what was measured.
    """
    states = []
    for name in STATES:
        states.append(await beside(servers, name, scale, orders_per_state))
        each = states[-1]
        tell(
            f"{name} ({each.rows:,} rows): claim {each.claim_milliseconds:.1f} ms "
            f"(control {each.control_milliseconds:.1f}), "
            f"{each.orders_per_second:.0f} orders/s "
            f"(control {each.control_per_second:.0f}), {each.peak_megabytes:.0f} MiB"
        )
    starts = [await start_seconds(servers) for _ in range(STARTS)]
    tell(f"start to consuming: {statistics.median(starts):.1f} s")
    idle = await idleness(servers, idle_seconds)
    tell(f"idle: {idle['statements_per_second']:.2f} statements/s, {idle['cpu_percent']:.2f} % CPU")
    return Growth(states, idle, starts)


async def beside(servers: Servers, state: str, scale: float, count: int) -> State:
    """Load the outbox, ask for the plans, time the claim, then have the service work beside it.

    All in turns with a control, an outbox that holds nothing else: a noisy machine slows both.
    """
    rows = round({"empty": 0, "pending": PENDING, "published": PUBLISHED}[state] * scale)
    backlog = state == "pending"
    async with Stage.on(servers) as stage, Stage.on(servers) as control:
        await asyncio.to_thread(load, stage, rows, published=not backlog)
        batch = stage.settings.relay_batch_size
        for each in (control,) if backlog else (stage, control):
            await asyncio.to_thread(load, each, batch, published=False)
        await asyncio.to_thread(_load_orders, stage)
        await _until_written(servers.database)
        here, there, locked = await _claims(stage, control)
        plans = await _plans(stage)
        for each in (control,) if backlog else (stage, control):
            each.link.ask("DELETE FROM outbox WHERE published_at IS NULL")
        rates, peaks, control_rates = [], [], []
        for number in range(ROUNDS):
            rate, _ = await _work(control, f"order{number}", count)
            control_rates.append(rate)
            rate, peak = await _work(stage, f"order{number}", count, backlog=backlog)
            rates.append(rate)
            peaks.append(peak)
    return State(
        state=state,
        rows=rows,
        claim_milliseconds=here,
        control_milliseconds=there,
        rows_locked=locked,
        orders=count,
        orders_per_second=statistics.median(rates),
        control_per_second=statistics.median(control_rates),
        peak_megabytes=max(peaks),
        plans=plans,
    )


async def _work(
    stage: Stage, series: str, count: int, *, backlog: bool = False
) -> tuple[float, float]:
    """Orders per second, and peak MiB, of the service over so many orders.

    As much is taken in and as much published with a backlog, whichever events those are.
    """
    stage.link.ask("TRUNCATE TABLE orders")
    await stage.empty()
    await stage.preload(messages(series, count))
    with Running.of(SERVICE, stage.environment) as running:
        await until_first_delivery(stage, running, count)
        started = time.monotonic()
        await until_processed(stage, running, count)
        await _until_stored(stage, running, count)
        seconds = time.monotonic() - started
        peak = running.usage().peak_bytes
    if not backlog:
        await stage.check(await stage.drain(), {series: count}, stored=True)
    return count / seconds, peak / 2**20


def load(stage: Stage, rows: int, *, published: bool) -> None:
    """Fill the outbox by INSERT … SELECT, with rows as the service makes them."""
    if not rows:
        return
    ask, names = stage.link.ask, stage.settings
    ask("SET SESSION sql_log_bin = 0")
    _make_numbers(stage)
    at = "UTC_TIMESTAMP(6) - INTERVAL 600 SECOND" if published else "NULL"
    for first in range(0, rows, LOAD_ROWS):
        ask(
            "INSERT INTO outbox (event_id, event_type, aggregate_type, aggregate_id, exchange,"
            " routing_key, payload, content_type, correlation_id, headers, published_at)"
            f" SELECT UUID(), 'OrderProcessed', 'order', CONCAT('loaded-', n + {first}),"
            f" '{names.events_exchange}', 'order.processed',"
            ' CONCAT(\'{"orderId":"loaded-\', n, \'","idempotencyKey":"key-loaded-\', n,'
            ' \'","status":"PROCESSED","processingTimestamp":"2026-01-01T00:00:00.000000Z"}\'),'
            " 'application/json', UUID(), JSON_OBJECT('cloudEvents_specversion', '1.0',"
            " 'cloudEvents_id', UUID(), 'cloudEvents_source', '/order-service',"
            " 'cloudEvents_type', 'OrderProcessed', 'cloudEvents_subject', CONCAT('loaded-', n),"
            f" 'cloudEvents_time', '2026-01-01T00:00:00+00:00'), {at}"
            f" FROM numbers WHERE n < {min(LOAD_ROWS, rows - first)} ORDER BY n"
        )
    ask("DROP TABLE numbers")
    of_kind = "published_at IS NOT NULL" if published else "published_at IS NULL"
    if (there := stage.link.number(f"SELECT COUNT(*) FROM outbox WHERE {of_kind}")) != rows:
        raise Wrong(f"{there} rows were loaded instead of {rows}")


def _make_numbers(stage: Stage) -> None:
    """A table `numbers` of 0 to LOAD_ROWS - 1, to select rows from."""
    ask = stage.link.ask
    ask("CREATE TABLE numbers (n INT PRIMARY KEY)")
    ask("INSERT INTO numbers VALUES (0)")
    have = 1
    while have < LOAD_ROWS:
        ask(f"INSERT INTO numbers SELECT n + {have} FROM numbers WHERE n + {have} < {LOAD_ROWS}")
        have *= 2


def _load_orders(stage: Stage) -> None:
    """So many orders that reading them all is no plan any more."""
    _make_numbers(stage)
    stage.link.ask(
        "INSERT INTO orders SELECT CONCAT('stored-', n), 'user', 1.00, 'PROCESSED',"
        " CONCAT('key-stored-', n), UNHEX(SHA2(n, 256)), '[]', UTC_TIMESTAMP(6), UTC_TIMESTAMP(6)"
        " FROM numbers"
    )
    stage.link.ask("DROP TABLE numbers")


async def _claims(stage: Stage, control: Stage) -> tuple[float, float, int]:
    """The claim as the relay makes it, undone each time, here and at the control in turns.

    Returns the median milliseconds of each, and the rows locked.
    """
    here, there, limit = [], [], stage.settings.relay_batch_size
    locked = 0
    async with _linked(stage) as ours, _linked(control) as other:
        for _ in range(CLAIMS):
            there.append(await _timed_claim(other, limit))
            await other.rollback()
            here.append(await _timed_claim(ours, limit))
            found = await ours.exec_driver_sql(
                "SELECT trx_rows_locked FROM information_schema.innodb_trx"
                " WHERE trx_mysql_thread_id = CONNECTION_ID()"
            )
            locked = int(found.scalar_one())
            await ours.rollback()
    return statistics.median(here), statistics.median(there), locked


@asynccontextmanager
async def _linked(stage: Stage) -> AsyncIterator[AsyncConnection]:
    """A connection as the service has them."""
    database = open_database(stage.settings)
    try:
        async with database.engine.connect() as connection:
            yield connection
    finally:
        await database.dispose()


async def _timed_claim(connection: AsyncConnection, limit: int) -> float:
    started = time.perf_counter()
    claimed = await outbox.lock_claimable(connection, limit, lease_seconds=LEASE_SECONDS)
    taken = time.perf_counter() - started
    if len(claimed) != limit:
        raise Wrong(f"{len(claimed)} events were claimed of {limit}")
    return taken * MILLI


async def _plans(stage: Stage) -> dict[str, list[str]]:
    """How the server means to run each statement whose cost must not grow."""
    some = {f"not-there-{n}" for n in range(STATEMENT_ROWS)}
    calls: dict[str, Callable[[AsyncConnection], Awaitable[object]]] = {
        "claim": lambda c: outbox.lock_claimable(c, STATEMENT_ROWS, lease_seconds=LEASE_SECONDS),
        "purge": lambda c: outbox.find_purgeable(
            c, retention=timedelta(hours=168), limit=STATEMENT_ROWS
        ),
        "classification": lambda c: orders.find_taken(c, idempotency_keys=some, order_ids=some),
    }
    asked: list[tuple[str, Any]] = []

    def remember(*arguments: Any) -> None:
        asked.append((arguments[2], arguments[3]))

    plans = {}
    async with _linked(stage) as connection:
        for name, call in calls.items():
            event.listen(connection.engine.sync_engine, "before_cursor_execute", remember)
            await call(connection)
            event.remove(connection.engine.sync_engine, "before_cursor_execute", remember)
            statement, parameters = asked[-1]
            # MySQL 9 explains as a tree unless told otherwise; MariaDB knows tables only.
            mysql = not connection.dialect.is_mariadb  # type: ignore[attr-defined]
            words = "EXPLAIN FORMAT=TRADITIONAL" if mysql else "EXPLAIN"
            rows = await connection.exec_driver_sql(f"{words} {statement}", parameters)
            plans[name] = [
                f"{row['table']}: {row['type']} on {row['key']}, {row['rows']} rows, {row['Extra']}"
                for row in rows.mappings()
            ]
            await connection.rollback()
    return plans


async def _until_written(database: AnyDatabase) -> None:
    """Until the server has written what was loaded: else its writing is what is measured.

    Where the server is lent to us, only after the time that a private one may take.
    """
    if not database.private:
        await asyncio.sleep(WRITING_SECONDS)
        return
    deadline = time.monotonic() + WRITING_SECONDS
    await asyncio.to_thread(database.execute, "SET GLOBAL innodb_max_dirty_pages_pct = 0")
    try:
        while int((await asyncio.to_thread(database.execute, DIRTY)).split()[1]) > DIRTY_PAGES:
            if time.monotonic() > deadline:
                raise Wrong(f"the database is still writing after {WRITING_SECONDS:g} s")
            await asyncio.sleep(1)
    finally:
        usual = "SET GLOBAL innodb_max_dirty_pages_pct = 90"
        await asyncio.to_thread(database.execute, usual)


async def _until_stored(stage: Stage, running: Running, count: int) -> None:
    deadline = time.monotonic() + STALL_SECONDS
    while await asyncio.to_thread(stage.link.orders) < count:
        running.check_alive()
        if time.monotonic() > deadline:
            raise Wrong(f"not all of {count} orders were stored\n{running.log_tail()}")
        await asyncio.sleep(POLL_SECONDS)


async def start_seconds(servers: Servers) -> float:
    """From starting the process, imports included, to its consumer being there."""
    async with Stage.on(servers) as stage:
        with Running.of(SERVICE, stage.environment) as running:
            await until_consuming(stage, running)
            return time.monotonic() - running.started


async def idleness(servers: Servers, seconds: float) -> dict[str, float]:
    """What a service costs that has nothing to do, per second."""
    async with Stage.on(servers) as stage:
        with Running.of(SERVICE, stage.environment) as running:
            await until_consuming(stage, running)
            await asyncio.sleep(5)
            counters, used = stage.link.counters(), running.usage()
            await asyncio.sleep(seconds)
            counted = stage.link.counters().since(counters)
            cpu = running.usage().cpu_seconds - used.cpu_seconds
    return {
        "seconds": seconds,
        "statements_per_second": counted.statements / seconds,
        # One of them was ours.
        "round_trips_per_second": (counted.questions - 1) / seconds,
        "cpu_percent": cpu / seconds * 100,
    }


async def over_many_orders(servers: Servers, count: int, tell: Callable[[str], None]) -> Memory:
    """Resident memory of one process while it processes so many orders, step by step.

    Raises:
        Wrong: an order was not stored, or had no event.
    """
    found: list[tuple[int, float]] = []
    repeated = 0
    async with Stage.on(servers) as stage:
        with Running.of(SERVICE, stage.environment) as running:
            await until_consuming(stage, running)
            done = 0
            while done < count:
                step = min(LONG_RUN_STEP, count - done)
                await stage.preload(messages(f"step{done}", step))
                await until_processed(stage, running, step)
                done += step
                await _until_stored(stage, running, done)
                await until_settled(stage, SERVICE)
                # No other order is under way: what is there beyond the step is there again.
                if (thrown := await stage.empty()) < step:
                    raise Wrong(f"{thrown} events came of {step} orders")
                repeated += thrown - step
                found.append((done, running.usage().resident_bytes / 2**20))
                tell(f"{done:,} orders: {found[-1][1]:.1f} MiB resident")
            if (stored := await asyncio.to_thread(stage.link.orders)) != count:
                raise Wrong(f"{stored} orders are stored of {count}")
    return Memory(found, repeated)
