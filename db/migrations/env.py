"""Alembic's entry: on the connection it is given, or, on the command line, on DATABASE_URL."""

from __future__ import annotations

import asyncio
import os

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlmodel import SQLModel

from db.engine import Database
from db.migrations.comparison import compare_type, include_name
from db.schema import VERSION_TABLE


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        version_table=VERSION_TABLE,
        include_name=include_name,
        compare_type=compare_type,
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate_from_command_line() -> None:
    if (url := os.environ.get("DATABASE_URL")) is None:
        raise SystemExit("Set DATABASE_URL, such as mysql+aiomysql://USER:PASSWORD@HOST/NAME.")
    database = Database(make_url(url))
    async with database.engine.begin() as connection:
        await connection.run_sync(migrate)
    await database.dispose()


if (given := context.config.attributes.get("connection")) is not None:
    migrate(given)
else:
    asyncio.run(migrate_from_command_line())
