"""Databases that are not empty: earlier installations are taken over, others' tables left alone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from sqlalchemy import text

from db import schema
from db.engine import Database
from db.schema import ForeignTablesError
from service.config.settings import Settings
from service.database import check_schema, migrate, open_database
from service.doctor import Level
from service.doctor.database import check_server
from service.domain.errors import SchemaBehindError
from tests.commands import orders
from tests.integration.test_relay import event, put
from tests.integration.test_schema import differences, migrate_to
from tests.processes import ROOT, environment_of

ALEMBICS = "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"


@pytest.fixture
async def empty(settings: Settings) -> AsyncIterator[Database]:
    """A database without our tables."""
    database = open_database(settings)
    yield database
    await database.dispose()


async def run(database: Database, *statements: str) -> None:
    async with database.engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def column(database: Database, statement: str) -> Sequence[str]:
    async with database.reading() as connection:
        return sorted((await connection.scalars(text(statement))).all())


async def before_the_version_table(database: Database, version: str) -> None:
    """As an earlier release left it: the same tables, and Alembic's own table of versions."""
    await migrate(database)
    await migrate_to(database, version)
    drop = f"DROP TABLE {schema.VERSION_TABLE}"
    await run(database, drop, ALEMBICS, f"INSERT INTO alembic_version VALUES ('{version}')")


# Earlier installations


async def test_an_earlier_installation_goes_on_without_a_migration(empty: Database) -> None:
    await before_the_version_table(empty, schema.needed_version())
    await check_schema(empty)


async def test_an_earlier_installation_is_taken_over_with_all_it_holds(empty: Database) -> None:
    await before_the_version_table(empty, "0002")
    await put(empty, *(event() for _ in range(5)))

    await migrate(empty)

    found = await column(empty, f"SELECT version_num FROM {schema.VERSION_TABLE}")
    assert found == [schema.needed_version()]
    assert await column(empty, "SELECT version_num FROM alembic_version") == ["0002"], (
        "services of earlier releases read it during the rollout"
    )
    assert len(await column(empty, "SELECT event_id FROM outbox")) == 5
    async with empty.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_an_older_installation_is_brought_up_to_date(empty: Database) -> None:
    await before_the_version_table(empty, "0001")
    with pytest.raises(SchemaBehindError, match="is at version 0001"):
        await check_schema(empty)

    await migrate(empty)

    await check_schema(empty)
    async with empty.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_many_at_once_take_over_one_installation(settings: Settings, empty: Database) -> None:
    await before_the_version_table(empty, "0001")
    databases = [open_database(settings) for _ in range(4)]
    try:
        await asyncio.gather(*(migrate(each) for each in databases))
    finally:
        for each in databases:
            await each.dispose()
    found = await column(empty, f"SELECT version_num FROM {schema.VERSION_TABLE}")
    assert found == [schema.needed_version()]


@pytest.mark.parametrize(
    "lost",
    [
        ("DROP TABLE dead_letters", "DROP TABLE outbox"),
        ("DROP TABLE dead_letters", "DROP INDEX ix_outbox_aggregate ON outbox"),
        ("DROP INDEX ix_dead_letters_order ON dead_letters",),
    ],
)
async def test_a_migration_that_was_interrupted_is_completed(
    empty: Database, lost: tuple[str, ...]
) -> None:
    await migrate(empty)
    await run(empty, *lost, f"DELETE FROM {schema.VERSION_TABLE}")

    await migrate(empty)

    await check_schema(empty)
    async with empty.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


# Other applications in the same database


@pytest.mark.parametrize(
    "theirs",
    [
        (ALEMBICS, "INSERT INTO alembic_version VALUES ('0002')"),
        (ALEMBICS, "INSERT INTO alembic_version VALUES ('0001')"),
        (ALEMBICS, "INSERT INTO alembic_version VALUES ('9f3b2c1d')"),
        (ALEMBICS, "INSERT INTO alembic_version VALUES ('0001'), ('0002')"),
        (ALEMBICS,),
        ("CREATE TABLE alembic_version (id INT PRIMARY KEY)",),
    ],
    ids=["0002", "0001", "another revision", "two heads", "empty", "another shape"],
)
async def test_what_another_applications_migrations_wrote_is_not_read_and_stays(
    empty: Database, theirs: tuple[str, ...]
) -> None:
    await run(empty, *theirs)
    before = await column(empty, "SELECT * FROM alembic_version")
    with pytest.raises(SchemaBehindError, match="no tables of this service"):
        await check_schema(empty)

    await migrate(empty)

    await check_schema(empty)
    assert await column(empty, "SELECT * FROM alembic_version") == before
    async with empty.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


@pytest.mark.parametrize(
    "theirs",
    [
        "CREATE TABLE orders (id INT PRIMARY KEY)",
        "CREATE TABLE outbox (id INT PRIMARY KEY, payload TEXT)",
        "CREATE VIEW dead_letters AS SELECT 1 AS id",
    ],
)
async def test_another_applications_table_of_one_of_our_names_is_told_in_one_sentence(
    settings: Settings, empty: Database, theirs: str
) -> None:
    name = theirs.split()[2]
    await run(empty, theirs)

    with pytest.raises(ForeignTablesError):
        await migrate(empty)
    with pytest.raises(SchemaBehindError, match=f"{name}.*a database of its own"):
        await check_schema(empty)
    ended = orders("migrate", environment=environment_of(settings))
    found = await check_server(settings)

    assert await column(empty, "SHOW TABLES") == [name], "nothing was made beside it"
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert f"({name}): give it a database of its own (DB_NAME)" in line
    (version,) = (each for each in found if each.name == "schema version")
    assert version.level is Level.WRONG
    assert name in version.found


# Where the code is


def test_the_migrations_are_found_in_a_folder_with_any_name(
    settings: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "feature%2Fcart %(here)s"
    folder.mkdir()
    for package in ("service", "db"):
        shutil.copytree(ROOT / package, folder / package)

    for environment in (environment_of(settings), {"SQLITE_PATH": str(tmp_path / "orders.db")}):
        ended = orders("migrate", environment=environment, folder=folder)
        assert (ended.returncode, ended.stderr) == (0, "")
