"""A database that stands, and refuses: read-only, no connection left, sessions killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import pymysql

from tests.faults.faults import DATABASE_BACK_SECONDS
from tests.faults.interference import kill_threads, nothing_is_stored, session, threads_of_services
from tests.faults.registry import Measurement, fault
from tests.faults.stage import Stage
from tests.patience import PATIENCE_SECONDS
from tests.servers import AnyDatabase
from tests.servers.server import USER

HOLDS = (1.0, 2.0, 4.0)
# The least that MariaDB takes as its limit is 10.
HELD_CONNECTIONS = 12
KILLING_SECONDS = 3.0
LONGEST_PAUSE_SECONDS = 0.2


@fault("read-only-database")
async def read_only_database(stage: Stage, rng: random.Random) -> list[Measurement]:
    """As after a failover to a replica: it lets everybody in, and takes no write."""
    with _read_only(stage.database):
        await asyncio.to_thread(_end_sessions, stage)
        await nothing_is_stored(stage, rng.choice(HOLDS))
    return [await _back(stage, "first order after the database was read-only")]


@contextmanager
def _read_only(database: AnyDatabase) -> Iterator[None]:
    """For everybody but root. MariaDB's has no exception for it, once it lost its privilege."""
    if "MariaDB" not in database.version:
        database.execute("SET GLOBAL super_read_only = ON")
        try:
            yield
        finally:
            database.execute("SET GLOBAL super_read_only = OFF; SET GLOBAL read_only = OFF")
        return
    everybody = accounts(database)
    database.execute(f"REVOKE READ_ONLY ADMIN ON *.* FROM {everybody}; SET GLOBAL read_only = ON")
    try:
        yield
    finally:
        database.execute(
            f"SET GLOBAL read_only = OFF; GRANT ALL ON *.* TO {everybody} WITH GRANT OPTION"
        )


def accounts(database: AnyDatabase) -> str:
    hosts = database.execute(f"SELECT host FROM mysql.user WHERE user = '{USER}'").split()
    return ", ".join(f"'{USER}'@'{host}'" for host in hosts)


def _end_sessions(stage: Stage) -> None:
    with session(stage) as cursor:
        kill_threads(cursor, threads_of_services(stage, cursor))


@fault("no-connection-left")
async def no_connection_left(stage: Stage, rng: random.Random) -> list[Measurement]:
    """Others hold as many connections as the server gives, and the service has lost its own."""
    with ExitStack() as held:
        # Before, or they would be taken for the service's.
        others = await asyncio.to_thread(_sessions, stage)
        operator, *_ = [held.enter_context(session(stage)) for _ in range(HELD_CONNECTIONS)]
        operator.execute("SELECT @@GLOBAL.max_connections")
        ((usual,),) = operator.fetchall()
        try:
            operator.execute(f"SET GLOBAL max_connections = {HELD_CONNECTIONS}")
            kill_threads(operator, others)
            # The one that the server keeps for administrators, unless somebody was faster.
            with suppress(pymysql.MySQLError):
                held.enter_context(session(stage))
            await asyncio.sleep(rng.choice(HOLDS))
        finally:
            operator.execute(f"SET GLOBAL max_connections = {usual}")
    return [await _back(stage, "first order after connections were free again")]


def _sessions(stage: Stage) -> list[int]:
    with session(stage) as cursor:
        return threads_of_services(stage, cursor)


@fault("kill-sessions")
async def kill_sessions(stage: Stage, rng: random.Random) -> list[Measurement]:
    """An operator ends one of the service's sessions after the other, whatever it is at."""
    await asyncio.to_thread(_kill_for_a_while, stage, rng)
    return [await _back(stage, "first order after sessions were killed")]


def _kill_for_a_while(stage: Stage, rng: random.Random) -> None:
    started, killed = time.monotonic(), 0
    with session(stage) as cursor:
        while (took := time.monotonic() - started) < KILLING_SECONDS or not killed:
            assert took < PATIENCE_SECONDS, "the service has no session"
            threads = threads_of_services(stage, cursor)
            if threads:
                killed += kill_threads(cursor, [rng.choice(threads)])
            time.sleep(rng.uniform(0, LONGEST_PAUSE_SECONDS))


async def _back(stage: Stage, what: str) -> Measurement:
    seconds = await stage.first_order_after(time.time())
    return Measurement(what, seconds, DATABASE_BACK_SECONDS)
