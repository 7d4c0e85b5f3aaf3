"""A COMMIT that the server refuses, and one whose answer is lost: no message is at fault."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import aiomysql
import pymysql
import pytest

from db import outbox
from db.engine import Database
from db.models import DeadLetter
from service.config.settings import Settings
from service.database import takes_writes
from service.observability import Action
from service.outbox.envelope import new_id
from tests.harness import Wire, eventually, logged, rows, running
from tests.integration.steps import all_is_done, counted, send
from tests.integration.test_outages import delivery_counts
from tests.integration.test_relay import event, put

# What servers answer to a COMMIT, or say of themselves: a full disk, a group member without a
# quorum, a statement that was interrupted or took too long.
OF_THE_SERVER = (1180, 3100, 3101, 1317, 1969, 3024)


class Commits:
    """What becomes of the COMMITs of transactions that stored an order or a dead letter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.refused_with: int | None = None
        self.answers_to_lose = 0
        self.refused = 0
        commit, query = aiomysql.Connection.commit, aiomysql.Connection.query
        commits = self

        async def seen(self: Any, sql: Any, *arguments: Any, **options: Any) -> Any:
            text = sql if isinstance(sql, str) else bytes(sql).decode("utf-8", "replace")
            if text.startswith(("INSERT INTO orders", "INSERT INTO dead_letters")):
                self.stores = True
            return await query(self, sql, *arguments, **options)

        async def judged(self: Any) -> None:
            stores, self.stores = getattr(self, "stores", False), False
            if commits.refused_with is not None:
                commits.refused += 1
                await self.rollback()
                raise pymysql.err.OperationalError(commits.refused_with, "refused")
            await commit(self)
            if stores and commits.answers_to_lose:
                commits.answers_to_lose -= 1
                self.close()
                raise pymysql.err.OperationalError(2013, "Lost connection during query")

        monkeypatch.setattr(aiomysql.Connection, "query", seen)
        monkeypatch.setattr(aiomysql.Connection, "commit", judged)


@pytest.fixture
def commits(monkeypatch: pytest.MonkeyPatch) -> Commits:
    return Commits(monkeypatch)


def more_than(count: int, of: Callable[[], int]) -> Any:
    async def asked() -> bool:
        return of() > count

    return asked


@pytest.mark.parametrize("number", OF_THE_SERVER)
async def test_a_commit_that_is_refused_again_and_again_blames_no_message(
    settings: Settings,
    database: Database,
    mq_url: str,
    wire: Wire,
    commits: Commits,
    number: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(settings) as app:
        commits.refused_with = number
        await send(wire, range(3))
        await eventually(more_than(5, lambda: app.service.intake.attempts))
        assert not await takes_writes(app.service.database)
        commits.refused_with = None
        await all_is_done(database, mq_url, range(3))
        assert await counted(app, "accepted") == 3

    assert await rows(database, DeadLetter) == []
    assert logged(caplog, Action.MESSAGE_FAILED) == []
    assert await delivery_counts(wire) == []


async def test_a_database_that_takes_writes_and_commits_is_seen_as_such_and_nothing_is_left_of_it(
    settings: Settings, database: Database
) -> None:
    assert await takes_writes(database)
    async with database.reading() as connection:
        assert await outbox.find_stored(connection, ["trial"]) == set()


async def test_what_an_unanswered_commit_stored_is_accepted_and_published_before_its_lease_ends(
    settings: Settings,
    database: Database,
    mq_url: str,
    wire: Wire,
    commits: Commits,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The lease is an hour: what is published within this test was released."""
    caplog.set_level(logging.INFO, logger="orders")
    patient = settings.model_copy(update={"relay_lease_seconds": 3600})
    async with running(patient) as app:
        await send(wire, range(5))
        await all_is_done(database, mq_url, range(5))
        commits.answers_to_lose = 2
        await send(wire, range(5, 40))
        await all_is_done(database, mq_url, range(40))
        assert commits.answers_to_lose == 0
        assert await counted(app, "accepted") == 40
        assert await counted(app, "duplicate") == 0
    assert logged(caplog, Action.LEASE_LOST) == []


async def test_a_refused_message_whose_commit_was_not_answered_is_recorded_and_told_once(
    settings: Settings, database: Database, wire: Wire, commits: Commits
) -> None:
    patient = settings.model_copy(update={"relay_lease_seconds": 3600})
    async with running(patient) as app:
        await wire.listen("order_failed_queue", "order_dlq")
        commits.answers_to_lose = 1
        await wire.send(b"no JSON")
        failed = await wire.hear("order_failed_queue", 1)
        copies = await wire.hear("order_dlq", 1)
        await eventually(more_than(0, lambda: int(not len(app.service.at_hand))))
        assert await counted(app, "dead_lettered") == 1
        assert await counted(app, "repeated") == 0
    assert (len(failed), len(copies)) == (1, 1)
    assert len(await rows(database, DeadLetter)) == 1


async def test_a_claim_whose_locks_were_lost_leases_nothing_that_another_relay_has(
    database: Database,
) -> None:
    taken, free = event("o-1"), event("o-2")
    await put(database, taken, free)
    ids, other, ours = [taken["event_id"], free["event_id"]], new_id(), new_id()
    async with database.transaction() as connection:
        assert await outbox.lease(connection, ids[:1], token=other, seconds=60) == 1

    async with database.transaction() as connection:
        assert await outbox.lease(connection, ids, token=ours, seconds=60) == 1
        assert await outbox.complete(connection, ids[:1], token=other) == 1
