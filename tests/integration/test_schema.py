"""Migrations on a real server: complete, repeatable, and what the models say."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlmodel import SQLModel

from db import outbox, schema
from db.engine import Database
from db.migrations.comparison import compare_type, include_name
from db.models import DeadLetter
from service.config.settings import Settings
from service.database import TRIAL_DEAD_LETTER, check_schema, migrate, open_database
from service.domain.errors import SchemaBehindError
from tests.harness import rows
from tests.integration.test_relay import event, put
from tests.patience import PATIENCE_SECONDS

EVENTS = 3_000
CLAIMS = 5


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(
        connection,
        opts={"include_name": include_name, "compare_type": compare_type},
    )
    return list(compare_metadata(context, SQLModel.metadata))


async def test_the_migrated_schema_is_what_the_models_say(database: Database) -> None:
    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_other_tables_in_the_database_are_left_alone(database: Database) -> None:
    async with database.engine.begin() as connection:
        await connection.execute(text("CREATE TABLE somebody_elses (id INT PRIMARY KEY)"))
    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await migrate(database)
    async with database.engine.connect() as connection:
        await connection.execute(text("SELECT * FROM somebody_elses"))


async def test_migrating_twice_changes_nothing(database: Database) -> None:
    await migrate(database)
    await check_schema(database)


async def test_the_relay_of_a_running_service_finds_its_indexes_at_any_moment_of_a_migration(
    database: Database,
) -> None:
    await migrate_to(database, "0001")
    await put(database, *(event() for _ in range(EVENTS)))
    beside = 0

    async def claim_until(migrated: asyncio.Task[None]) -> None:
        nonlocal beside
        while not migrated.done():
            async with database.trial() as connection:
                found = await outbox.lock_claimable(connection, 10, lease_seconds=60)
                assert len(found) == 10
            beside += not migrated.done()

    async with asyncio.timeout(PATIENCE_SECONDS):
        for version in itertools.cycle(("0002", "0001")):
            migrated = asyncio.create_task(migrate_to(database, version))
            await claim_until(migrated)
            await migrated
            if version == "0002" and beside >= CLAIMS:
                break
    await migrate_to(database, "head")

    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []
        assert (await outbox.measure_backlog(connection)).pending == EVENTS


async def migrate_to(database: Database, version: str) -> None:
    """By Alembic, up or down, in a connection of its own."""

    def run(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(schema.MIGRATIONS))
        config.attributes["connection"] = connection
        newer = version != "0001"
        (command.upgrade if newer else command.downgrade)(config, version)

    async with database.engine.begin() as connection:
        await connection.run_sync(run)


async def test_a_database_without_our_tables_is_told_to_be_migrated(settings: Settings) -> None:
    database = open_database(settings)
    with pytest.raises(SchemaBehindError, match="orders migrate"):
        await check_schema(database)
    await database.dispose()


async def test_a_schema_newer_than_this_code_is_accepted(database: Database) -> None:
    async with database.engine.begin() as connection:
        await connection.execute(text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'"))
    await check_schema(database)


async def test_a_service_of_the_version_before_stores_dead_letters_in_this_schema(
    database: Database,
) -> None:
    """During a rollout: it knows no `attempts`."""
    row = {**TRIAL_DEAD_LETTER, "headers": "{}", "properties": "{}"}
    columns = ", ".join(row)
    values = ", ".join(f":{name}" for name in row)
    async with database.transaction() as connection:
        await connection.execute(
            text(f"INSERT INTO dead_letters ({columns}) VALUES ({values})"), row
        )
    assert [each.attempts for each in await rows(database, DeadLetter)] == [1]


async def test_identifiers_compare_byte_for_byte(database: Database) -> None:
    insert = text(
        "INSERT INTO orders (order_id, user_id, total_amount, status, idempotency_key, "
        "fingerprint, items, created_at, updated_at) "
        "VALUES (:id, 'u', 1, 'PROCESSED', :id, '', '[]', NOW(6), NOW(6))"
    )
    async with database.engine.begin() as connection:
        for order_id in ("a", "A", "a_", "a."):
            await connection.execute(insert, {"id": order_id})


async def test_a_migration_is_done_for_others_before_they_may_begin(settings: Settings) -> None:
    first, second = open_database(settings), open_database(settings)
    try:
        async with first.engine.connect() as connection:
            await schema.upgrade(connection)
            # While the first one's connection is still as the migration left it.
            async with asyncio.timeout(PATIENCE_SECONDS):
                await migrate(second)
    finally:
        await first.dispose()
        await second.dispose()


async def test_migrations_at_once_end_with_one_schema(settings: Settings) -> None:
    databases = [open_database(settings) for _ in range(4)]
    try:
        await asyncio.gather(*(migrate(each) for each in databases))
        await check_schema(databases[0])
    finally:
        for each in databases:
            await each.dispose()


def test_the_needed_version_is_the_newest_migration() -> None:
    assert schema.is_known(schema.needed_version())
