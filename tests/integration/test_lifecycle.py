"""The process as it is run for real: how it starts, what it waits for, why it ends, and how."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import sqlite3
import time
import urllib.request
from pathlib import Path

import pytest

from db.engine import Database
from db.models import Order
from service.config.settings import Settings
from tests.harness import Wire, eventually, rows, running
from tests.integration.steps import (
    INCOMING,
    all_published,
    consumed_by,
    consumers,
    counted,
    insert_order,
    keep_sending,
    lock_waits,
    send,
    stored,
)
from tests.patience import PATIENCE_SECONDS
from tests.processes import HOST, ROOT, ServiceProcess, environment_of, service_process
from tests.servers import AnyDatabase, AnyRabbit, GivenDatabase, GivenRabbit

# uvicorn ends with the signal that ended it, once everything is drained: 143 in a shell.
ENDED_BY_SIGTERM = -signal.SIGTERM
CANNOT_START = 3
SHUTDOWN_SECONDS = 10


@pytest.fixture
def embedded(tmp_path: Path) -> dict[str, str]:
    return {"SQLITE_PATH": str(tmp_path / "orders.db")}


# What it waits for


def test_servers_that_are_not_up_yet_are_waited_for(
    settings: Settings,
    database: Database,
    database_server: AnyDatabase,
    rabbit_server: AnyRabbit,
) -> None:
    if isinstance(database_server, GivenDatabase) or isinstance(rabbit_server, GivenRabbit):
        pytest.skip("the servers are not ours to stop")
    rabbit_server.settle()
    database_server.kill()
    rabbit_server.kill()
    with service_process(settings) as service:
        service.wait_for_status("/health/live", 200)
        assert service.status("/health/ready") == 503
        assert service.status("/health") == 503
        waits = service.wait_until_told("database-waiting", times=3)
        assert waits[0]["database"] == settings.database_name
        assert "nobody listens there" in waits[0]["why"]
        delays = [wait["retry_in_seconds"] for wait in waits[:3]]
        assert delays[0] <= 0.5 <= delays[1] <= 1 <= delays[2], "it asks less and less often"

        database_server.start()
        service.wait_until_told("database-ready")
        (wait, *_) = service.wait_until_told("broker-waiting")
        assert wait["broker"] == settings.broker_name
        assert "nobody listens there" in wait["why"]
        assert service.status("/health/ready") == 503

        rabbit_server.start()
        service.wait_for_status("/health/ready", 200)
        assert service.status("/health") == 200
        assert not any("Traceback" in line for line in service.lines)


@pytest.mark.parametrize(
    ("fault", "action", "said"),
    [
        ("database password", "database-waiting", "wrong user or password (DB_USER, DB_PASSWORD)"),
        ("database name", "database-waiting", "the database does not exist"),
        ("broker password", "broker-waiting", "wrong user or password (MQ_USER, MQ_PASSWORD)"),
        ("broker vhost", "broker-waiting", "the vhost does not exist"),
    ],
)
def test_what_is_configured_wrong_is_named_and_waited_for(
    settings: Settings, database: Database, fault: str, action: str, said: str
) -> None:
    environment = environment_of(settings)
    database_url, mq_url = environment["DATABASE_URL"], environment["MQ_URL"]
    wrong = {
        "database password": {"DATABASE_URL": re.sub(r":[^:]*@", ":wrong@", database_url)},
        "database name": {"DATABASE_URL": database_url + "_wrong"},
        "broker password": {"MQ_URL": re.sub(r":[^:]*@", ":wrong@", mq_url)},
        "broker vhost": {"MQ_URL": mq_url + "-wrong"},
    }
    with service_process(environment | wrong[fault]) as service:
        waits = service.wait_until_told(action, times=2)
        assert all(said in wait["why"] for wait in waits)
        assert service.status("/health/live") == 200
        assert service.status("/health/ready") == 503
        assert not any("Traceback" in line for line in service.lines)


# Why it does not start


@pytest.mark.parametrize("workers", [1, 2])
def test_a_schema_that_was_never_made_ends_the_start(settings: Settings, workers: int) -> None:
    with service_process(settings, "--workers", str(workers)) as service:
        assert service.wait(within=PATIENCE_SECONDS) == CANNOT_START
        assert any("run `orders migrate`" in line for line in service.lines)
        assert not any("Traceback" in line for line in service.lines)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_schema_that_turns_out_missing_when_the_database_comes_up_ends_the_process(
    settings: Settings, database_server: AnyDatabase, workers: int
) -> None:
    if isinstance(database_server, GivenDatabase):
        pytest.skip("the database server is not ours to stop")
    database_server.kill()
    with service_process(settings, "--workers", str(workers)) as service:
        service.wait_until_told("database-waiting", times=workers)
        database_server.start()
        # A worker that ended is started again, and cannot start.
        status = ENDED_BY_SIGTERM if workers == 1 else CANNOT_START
        assert service.wait(within=PATIENCE_SECONDS) == status
        # A worker that is started again may end before the other one has looked.
        assert 1 <= len(service.told("schema-behind")) <= workers
        assert "run `orders migrate`" in service.told("schema-behind")[0]["why"]


def test_production_names_each_fault_of_its_configuration_and_does_not_start() -> None:
    faulty = {
        "ENVIRONMENT": "production",
        "DB_HOST": "127.0.0.1",
        "MQ_HOST": "127.0.0.1",
        "MQ_PASSWORD": "guest",
    }
    with service_process(faulty) as service:
        assert service.wait() > 0
        said = "\n".join(service.lines)
    for fault in ("DB_PASSWORD is empty", "MQ_USER is guest", "MQ_PASSWORD is empty or an example"):
        assert said.count(fault) == 1
    assert "Traceback" not in said


@pytest.mark.parametrize("fault", ["another's table", "no file"])
def test_an_embedded_database_that_cannot_be_used_ends_the_start_with_a_sentence(
    embedded: dict[str, str], fault: str
) -> None:
    path = Path(embedded["SQLITE_PATH"])
    if fault == "no file":
        path.write_bytes(b"no database" * 1000)
    else:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("CREATE TABLE orders (id INT)")
    with service_process(embedded) as service:
        assert service.wait() == CANNOT_START
        assert any("cannot start. SQLite file" in line for line in service.lines)
        assert not any("Traceback" in line for line in service.lines)


# How it ends


async def test_with_a_database_that_hangs_it_ends_within_the_time_it_has_for_that(
    settings: Settings, database: Database, database_server: AnyDatabase, wire: Wire
) -> None:
    """The database's own deadline is minutes: only the bound of the whole can end it."""
    if isinstance(database_server, GivenDatabase):
        pytest.skip("the database server is not ours to freeze")
    patient = {
        **environment_of(settings),
        "SHUTDOWN_TIMEOUT_SECONDS": str(SHUTDOWN_SECONDS),
        "DB_TIMEOUT_SECONDS": "120",
        "RELAY_LEASE_SECONDS": "1800",
        "OUTAGE_HOLD_SECONDS": "900",
    }
    with service_process(patient) as service:
        await asyncio.to_thread(service.wait_for_status, "/health/ready", 200)
        database_server.freeze()
        try:
            await send(wire, range(20))
            await eventually(lambda: nothing_waits(wire))
            told = time.monotonic()
            service.terminate()
            assert await asyncio.to_thread(service.wait, PATIENCE_SECONDS) == ENDED_BY_SIGTERM
            took = time.monotonic() - told
        finally:
            database_server.thaw()
        assert not any("Traceback" in line for line in service.lines)
    # Above the bound by what a busy machine may add, and far below the database's deadline.
    assert took < SHUTDOWN_SECONDS + PATIENCE_SECONDS / 2
    await eventually(lambda: back(wire, 20))


async def nothing_waits(wire: Wire) -> bool:
    return await wire.depth(INCOMING) == 0


async def back(wire: Wire, count: int) -> bool:
    return await wire.depth(INCOMING) == count


async def test_told_to_end_under_load_it_finishes_what_it_has_and_gives_the_rest_back(
    settings: Settings, database: Database, wire: Wire
) -> None:
    ended = asyncio.Event()
    with service_process(settings) as service:
        await asyncio.to_thread(service.wait_for_status, "/health/ready", 200)
        async with asyncio.TaskGroup() as flow:
            sending = flow.create_task(keep_sending(wire, ended))
            try:
                await eventually(lambda: stored(database, 50))
                service.terminate()
                assert await asyncio.to_thread(service.wait) == ENDED_BY_SIGTERM
            finally:
                ended.set()
        assert not any("Traceback" in line for line in service.lines)
        assert service.told("stopped")

    sent, done = sending.result(), len(await rows(database, Order))
    assert 50 <= done < sent

    async def all_is_back() -> bool:
        return await wire.depth(INCOMING) == sent - done

    await eventually(all_is_back)  # what was stored is acknowledged: none of it comes again
    async with running(settings) as app:
        await eventually(lambda: all_published(database, sent))
        assert await counted(app, "accepted") == sent - done
        assert await counted(app, "duplicate") == 0


async def test_told_to_end_in_the_middle_of_a_commit_it_finishes_and_acknowledges_it(
    settings: Settings, database: Database, wire: Wire, database_server: AnyDatabase
) -> None:
    with service_process(settings) as service:
        await asyncio.to_thread(service.wait_for_status, "/health/ready", 200)
        async with database.engine.connect() as other:
            # Not committed: the batch that inserts the same key waits for it.
            await insert_order(other, "elsewhere", key="k-0")
            await send(wire, range(50))
            await eventually(lambda: waiting(wire, 0))
            await eventually(lambda: lock_waits(database_server))
            service.terminate()
            await asyncio.to_thread(service.wait_for_line, "Shutting down")
            await other.rollback()
        assert await asyncio.to_thread(service.wait) == ENDED_BY_SIGTERM

    assert len(await rows(database, Order)) == 50
    assert await wire.depth(INCOMING) == 0


async def test_two_workers_share_the_work_and_end_together(
    settings: Settings, database: Database, wire: Wire
) -> None:
    environment = environment_of(settings) | {"PREFETCH_COUNT": "5"}
    with service_process(environment, "--workers", "2") as service:
        await asyncio.to_thread(service.wait_until_told, "consuming", times=2)
        assert await consumers(wire) == 2
        async with database.engine.connect() as other:
            # Not committed: whichever worker has one of the first ten waits, its hands full.
            for number in range(10):
                await insert_order(other, f"elsewhere-{number}", key=f"k-{number}")
            await send(wire, range(200))
            await eventually(lambda: waiting(wire, 190))
            await other.rollback()
        await eventually(lambda: all_published(database, 200))
        seen = set[int]()

        async def both_have_answered() -> bool:
            seen.add(await asyncio.to_thread(accepted, service))
            return any(one + other == 200 for one in seen for other in seen)

        await eventually(both_have_answered)
        assert min(seen) >= 5, "what each had in hand"
        service.terminate()
        assert await asyncio.to_thread(service.wait) == 0, "the parent process ends by itself"
        assert service.status("/health/live") is None
        assert len(service.told("stopped")) == 2
    await eventually(lambda: consumed_by(wire, 0))


# How else it is started


def test_a_changed_file_restarts_the_service_when_it_reloads(
    embedded: dict[str, str], tmp_path: Path
) -> None:
    for package in ("service", "db"):
        shutil.copytree(ROOT / package, tmp_path / package)
    with service_process(embedded, "--reload", folder=tmp_path) as service:
        service.wait_for_status("/health/ready", 200)
        # The leader may begin to watch later than the service is ready.
        for patience in (15, 30, PATIENCE_SECONDS):
            with (tmp_path / "service" / "backoff.py").open("a") as source:
                source.write("# changed\n")
            if started_again(service, within=patience):
                break
        assert len(service.told("starting")) > 1
        service.wait_for_status("/health/ready", 200)
        service.terminate()
        assert service.wait() == 0


def test_the_command_lines_own_log_level_is_taken(embedded: dict[str, str]) -> None:
    with service_process(embedded, "--log-level", "debug") as service:
        service.wait_for_status("/health/ready", 200)
        service.terminate()
        assert service.wait() == ENDED_BY_SIGTERM
        assert service.told("stopped")
        assert not any("Traceback" in line for line in service.lines)


# What the tests have in common


def started_again(service: ServiceProcess, *, within: float) -> bool:
    with contextlib.suppress(AssertionError):
        service.wait_until_told("starting", times=2, within=within)
    return len(service.told("starting")) > 1


async def waiting(wire: Wire, count: int) -> bool:
    """Whether so many messages wait in the incoming queue, in no consumer's hands."""
    return await wire.depth(INCOMING) == count


def accepted(service: ServiceProcess) -> int:
    """How many orders the worker that happens to answer has accepted."""
    with urllib.request.urlopen(
        f"http://{HOST}:{service.port}/metrics", timeout=PATIENCE_SECONDS
    ) as answer:
        text = answer.read().decode()
    found = re.search(r'^orders_messages_total\{outcome="accepted"\} (\d+)', text, re.MULTILINE)
    return int(found[1]) if found else 0
