"""Alembic's entry: on the connection it is given, or, on the command line, on DATABASE_URL."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import make_url
from sqlmodel import SQLModel

import db.models  # noqa: F401 - fills the metadata
from db.engine import Database

OURS = set(SQLModel.metadata.tables)


def include_name(name: str | None, kind: str, _: Any) -> bool:
    """Other people's tables in the same database are none of our business."""
    return kind != "table" or name in OURS


def compare_type(
    migration: Any, column: Any, metadata_column: Any, found: Any, expected: Any
) -> bool | None:
    """MariaDB's JSON is a LONGTEXT with a check: no difference. All else: Alembic's own rule."""
    json_on_mariadb = isinstance(found, mysql.LONGTEXT) and "JSON" in str(expected).upper()
    return False if json_on_mariadb else None


def migrate(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        include_name=include_name,
        compare_type=compare_type,
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate_from_command_line() -> None:
    database = Database(make_url(os.environ["DATABASE_URL"]))
    async with database.engine.begin() as connection:
        await connection.run_sync(migrate)
    await database.dispose()


if (given := context.config.attributes.get("connection")) is not None:
    migrate(given)
else:
    asyncio.run(migrate_from_command_line())
