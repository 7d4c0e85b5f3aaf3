"""A primary that is switched behind an address that stays: old links lead to the old one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pymysql
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from db.engine import Database
from service.config.settings import Settings
from service.database import migrate, open_database
from service.observability import Action
from tests.faults.database_faults import accounts
from tests.harness import Wire, eventually, logged, running, settings_for
from tests.integration.steps import all_published, send
from tests.servers import AnyDatabase, GivenDatabase, private_database
from tests.servers.forwarder import Forwarders


class Router:
    """One address; new links go to the primary, and links that are there stay where they are."""

    def __init__(self, old: AnyDatabase, new: AnyDatabase, name: str, port: int) -> None:
        self.old, self.new, self.primary = old, new, old
        self.name, self.port = name, port

    def url(self, server: AnyDatabase) -> str:
        return server.url(self.name)

    @property
    def routed_url(self) -> str:
        parts = urlsplit(self.url(self.old))
        return parts._replace(netloc=parts.netloc.rsplit(":", 1)[0] + f":{self.port}").geturl()

    def switch(self) -> None:
        self.old.execute(f"SET GLOBAL {'super_' * self.is_mysql}read_only = ON")
        self.primary = self.new

    @property
    def is_mysql(self) -> bool:
        return "MariaDB" not in self.old.version


@pytest.fixture
def router(database_server: AnyDatabase, database_url: str) -> Iterator[Router]:
    if isinstance(database_server, GivenDatabase):
        pytest.skip("the database server is not ours to switch")
    old, name = database_server, urlsplit(database_url).path.strip("/")
    with ExitStack() as stack:
        new = stack.enter_context(private_database())
        new.create_database(name)
        forwarders = stack.enter_context(Forwarders())
        found: list[Router] = []
        port = forwarders.open(lambda: [(each.host, each.port) for each in [found[0].primary]])
        found.append(Router(old, new, name, port))
        if not found[0].is_mysql:
            # Or its user would be let through, on the links that are there as well.
            old.execute(f"REVOKE READ_ONLY ADMIN ON *.* FROM {accounts(old)}")
            stack.callback(old.execute, f"GRANT ALL ON *.* TO {accounts(old)} WITH GRANT OPTION")
        stack.callback(old.execute, "SET GLOBAL read_only = OFF")
        yield found[0]


async def test_links_to_a_primary_that_turned_read_only_are_left_at_once(
    router: Router, settings: Settings, mq_url: str, wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    """By count: without it each attempt would meet the old primary again for half a minute."""
    old, new = (
        open_database(settings_for(database_url=router.url(each), mq_url=mq_url))
        for each in (router.old, router.new)
    )
    await migrate(old)
    await migrate(new)
    routed = settings_for(database_url=router.routed_url, mq_url=mq_url)
    async with running(routed):
        await send(wire, range(20))
        await eventually(lambda: all_published(old, 20))
        router.switch()
        await send(wire, range(20, 40))
        await eventually(lambda: all_published(new, 20))
    await old.dispose()
    await new.dispose()
    met = logged(caplog, Action.INTAKE_RETRYING) + logged(caplog, Action.RELAY_WAITING)
    assert 1 <= len([each for each in met if "read-only" in each["why"]]) <= routed.db_pool_size


async def test_after_a_commit_that_is_refused_its_connection_is_used_no_more(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.reading() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        first = await connection.scalar(text("SELECT CONNECTION_ID()"))

    async def refuse(_: object) -> None:
        raise pymysql.err.OperationalError(1180, "refused")

    monkeypatch.setattr(type(driver), "commit", refuse)
    with pytest.raises(DBAPIError):
        async with database.transaction() as connection:
            assert await connection.scalar(text("SELECT CONNECTION_ID()")) == first
    monkeypatch.undo()
    async with database.reading() as connection:
        assert await connection.scalar(text("SELECT CONNECTION_ID()")) != first
