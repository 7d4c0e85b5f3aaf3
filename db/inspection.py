"""What a database server says of itself, of our tables and of our rights. Changes nothing."""

from __future__ import annotations

import time
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import (
    Column,
    Executable,
    Table,
    bindparam,
    delete,
    false,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlmodel import SQLModel

from db import models
from db.types import database_now

TABLES: tuple[Table, ...] = tuple(
    SQLModel.metadata.tables[str(model.__tablename__)]
    for model in (models.Order, models.OutboxEvent, models.DeadLetter)
)


# What the service does with each table: an order, once stored, stays as it is.
NEEDED_RIGHTS: dict[str, tuple[str, ...]] = {
    "orders": ("SELECT", "INSERT"),
    "outbox": ("SELECT", "INSERT", "UPDATE", "DELETE"),
    "dead_letters": ("SELECT", "INSERT", "UPDATE"),
}
# Where the right to update is on some columns alone.
UPDATED_COLUMNS = {"dead_letters": ("acknowledged_at", "attempts", "redriven_at")}


class ColumnCollation(NamedTuple):
    """A text column as it is, and the collation it was meant to have; `found` None: no column."""

    column: str
    needed: str
    found: str | None


class ClockOffset(NamedTuple):
    """How far the database's clock is ahead of ours, and by how much that may be wrong."""

    ahead_ms: float
    error_ms: float


class RefusedRight(NamedTuple):
    verb: str
    table: str
    error: DBAPIError


async def database_in_use(connection: AsyncConnection) -> str | None:
    name: str | None = await connection.scalar(text("SELECT DATABASE()"))
    return name


async def server_version(connection: AsyncConnection) -> str:
    return str(await connection.scalar(text("SELECT VERSION()")))


async def tls_version(connection: AsyncConnection) -> str:
    """The TLS version of this very link; empty where it is not encrypted."""
    row = (await connection.execute(text("SHOW SESSION STATUS LIKE 'Ssl_version'"))).one_or_none()
    return "" if row is None else str(row[1])


async def global_variables(connection: AsyncConnection, names: Collection[str]) -> dict[str, str]:
    """The server's settings of these names; those it does not know are left out."""
    statement = text("SHOW GLOBAL VARIABLES WHERE Variable_name IN :names").bindparams(
        bindparam("names", list(names), expanding=True)
    )
    rows = await connection.execute(statement)
    return {str(name).lower(): str(value) for name, value in rows}


async def table_engines(connection: AsyncConnection) -> dict[str, str | None]:
    """The storage engine of each of our tables; None where the table is not there."""
    statement = text(
        "SELECT TABLE_NAME, ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
    )
    there = {row[0]: row[1] for row in await connection.execute(statement)}
    return {table.name: there.get(table.name) for table in TABLES}


async def id_collations(connection: AsyncConnection) -> list[ColumnCollation]:
    """The columns that have to compare byte for byte."""
    statement = text(
        "SELECT TABLE_NAME, COLUMN_NAME, COLLATION_NAME FROM information_schema.COLUMNS "
        "WHERE TABLE_SCHEMA = DATABASE()"
    )
    there = {(table, name): found for table, name, found in await connection.execute(statement)}
    return [
        ColumnCollation(f"{table.name}.{column.name}", needed, there.get((table.name, column.name)))
        for table in TABLES
        for column in table.columns
        if (needed := _collation(column)) == "ascii_bin"
    ]


async def clock_offset(connection: AsyncConnection, rounds: int = 3) -> ClockOffset:
    """From the fastest of some round trips: the answer was made somewhere in the middle of it."""
    best: ClockOffset | None = None
    for _ in range(rounds):
        asked, clock = time.time(), time.perf_counter()
        now = (await connection.execute(select(database_now()))).scalar_one()
        half = (time.perf_counter() - clock) / 2
        ahead = now.timestamp() - (asked + half)
        if best is None or half * 1000 < best.error_ms:
            best = ClockOffset(ahead * 1000, half * 1000)
    if best is None:
        raise ValueError("at least one round trip is needed")
    return best


def read_only_sqlite(path: Path) -> AsyncEngine:
    """An engine on a file that has to be there; it leaves nothing behind, beside the file either.

    Only where nobody has the file open may it be read as one that cannot change (`immutable`);
    elsewhere what is in the WAL counts, and the files beside it are there already.
    """
    in_use = path.with_name(f"{path.name}-wal").exists()
    options = "mode=ro" if in_use else "mode=ro&immutable=1"
    url = URL.create(
        "sqlite+aiosqlite", database=f"{path.absolute().as_uri()}?{options}", query={"uri": "true"}
    )
    return create_async_engine(url, hide_parameters=True)


def sqlite_is_wal(path: Path) -> bool:
    """As the file's header says: a connection to an immutable file does not tell."""
    with path.open("rb") as file:
        return file.read(20)[18:] == b"\x02\x02"


async def refused_rights(connection: AsyncConnection) -> list[RefusedRight]:
    """Try what the service needs to do with each table, with no row at all, and roll back.

    Asking the server itself is exact where reading SHOW GRANTS is not: roles, wildcards, proxies.
    """
    refused = []
    try:
        for table in TABLES:
            statements = _statements_on_no_row(table)
            for verb in NEEDED_RIGHTS[table.name]:
                try:
                    await connection.execute(statements[verb])
                except DBAPIError as error:
                    if error.connection_invalidated:
                        raise
                    refused.append(RefusedRight(verb, table.name, error))
    finally:
        await connection.rollback()
    return refused


def _statements_on_no_row(table: Table) -> dict[str, Executable]:
    columns = list(table.columns)
    nothing = select(*columns).where(false())
    updated = UPDATED_COLUMNS.get(table.name, (columns[0].name,))
    return {
        "SELECT": nothing,
        "INSERT": insert(table).from_select(columns, nothing),
        "UPDATE": update(table).where(false()).values({name: table.c[name] for name in updated}),
        "DELETE": delete(table).where(false()),
    }


def _collation(column: Column[object]) -> str | None:
    kind = column.type.dialect_impl(mysql.dialect())
    return getattr(kind, "collation", None)
