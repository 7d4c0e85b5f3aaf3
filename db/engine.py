"""The engine: READ COMMITTED, UTC, and a deadline on everything that talks to the server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiomysql
from pydantic_core import to_json
from pymysql.constants import CLIENT
from pymysql.err import OperationalError
from sqlalchemy import event
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

# How long after its deadline a transaction may still be busy giving its connection back.
GIVE_BACK_SECONDS = 1.0

# The server ends the session of a process that stands still, with the locks that it holds: others
# wait for them. Connections of the pool are made anew long before.
SILENCE_SECONDS = 60

TLS_FAILED = 2026  # CR_SSL_CONNECTION_ERROR


class Database:
    """One engine and the ways to use it: `transaction()` to write, `reading()` to read."""

    def __init__(
        self,
        url: URL,
        *,
        tls: ssl.SSLContext | None = None,
        pool_size: int = 5,
        connect_timeout_seconds: float = 5,
        timeout_seconds: float = 15,
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self.engine = _create_engine(
            url, tls=tls, pool_size=pool_size, connect_timeout_seconds=connect_timeout_seconds
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that commits at the end of the block and rolls back on any error.

        Raises:
            TimeoutError: connecting, the block and the commit took longer than `timeout_seconds`;
                after a timeout whether it was committed is unknown.
            sqlalchemy.exc.DBAPIError: what the driver said.
        """
        async with self._connected() as connection, connection.begin():
            yield connection

    @asynccontextmanager
    async def trial(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that is always rolled back, with the same deadline."""
        async with self._connected() as connection:
            transaction = await connection.begin()
            yield connection
            await transaction.rollback()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading, with the same deadline; nothing is committed."""
        async with self._connected() as connection:
            yield connection

    async def dispose(self) -> None:
        await self.engine.dispose()

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[AsyncConnection]:
        """A connection of the pool, with a deadline on everything, its way back included.

        A connection on its way back is rolled back, and SQLAlchemy lets nobody cancel that: with a
        server that has stopped answering it would wait for ever. So the link is cut under it.
        """
        loop = asyncio.get_running_loop()
        latest = loop.time() + self.timeout_seconds + GIVE_BACK_SECONDS
        cut: asyncio.TimerHandle | None = None
        try:
            async with asyncio.timeout(self.timeout_seconds), self.engine.connect() as connection:
                if self.engine.dialect.name == "mysql":
                    link = (await connection.get_raw_connection()).driver_connection
                    cut = loop.call_at(latest, _cut, link)
                yield connection
        finally:
            if cut is not None:
                cut.cancel()


def _cut(link: Any) -> None:
    """Close the link without a word to the server: whoever waits for an answer gets an error."""
    link.close()


def _create_engine(
    url: URL, *, tls: ssl.SSLContext | None, pool_size: int, connect_timeout_seconds: float
) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        engine = create_async_engine(
            url,
            hide_parameters=True,
            json_serializer=_json,
            connect_args={"timeout": 15, "isolation_level": None},
        )
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_immediate)
        return engine
    arguments: dict[str, Any] = {
        "connect_timeout": connect_timeout_seconds,
        "init_command": "SET time_zone = '+00:00', "
        "sql_mode = 'STRICT_ALL_TABLES,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO', "
        f"wait_timeout = {SILENCE_SECONDS}",
        "async_creator_fn": _connect,
    }
    if tls is not None:
        arguments["ssl"] = tls
    return create_async_engine(
        url,
        # A row's parameters are a customer's data: never in an error's text, hence in no log.
        hide_parameters=True,
        json_serializer=_json,
        isolation_level="READ COMMITTED",
        pool_size=pool_size,
        max_overflow=0,
        # A connection comes back committed or rolled back: once more would be a round trip each.
        pool_reset_on_return=None,
        pool_recycle=SILENCE_SECONDS // 2,
        connect_args=arguments,
    )


class _Connection(aiomysql.Connection):  # type: ignore[misc]
    """The driver's connection, with texts escaped at a fraction of the cost."""

    def escape_string(self, s: str) -> str:
        """The inside of a literal in single quotes, under our sql_mode and utf8mb4.

        There the server asks for these two to be escaped and no other:
        https://dev.mysql.com/doc/c-api/9.4/en/mysql-real-escape-string.html
        The driver escapes five more, for the reader of a log, and goes letter by letter for it.
        """
        return s.replace("\\", "\\\\").replace("'", "\\'")


class _EncryptedConnection(_Connection):
    """Hangs up before the login where the server offers no TLS.

    The driver would go on in plain text, and tell whoever answers there the password as it is.
    """

    async def _get_server_information(self) -> None:
        await super()._get_server_information()
        if not self.server_capabilities & CLIENT.SSL:
            raise OperationalError(TLS_FAILED, "the server offers no TLS")


async def _connect(*arguments: Any, **options: Any) -> aiomysql.Connection:
    kind = _EncryptedConnection if options.get("ssl") else _Connection
    connection = kind(*arguments, **options)
    await connection._connect()  # noqa: SLF001 - what aiomysql.connect does with its own class
    return connection


def _json(value: Any) -> str:
    """Without spaces: what goes into a JSON column is escaped and sent, letter by letter."""
    return to_json(value).decode()


def _prepare_sqlite(connection: Any, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _begin_immediate(connection: Any) -> None:
    # A transaction that starts reading and then writes fails at once where another one wrote in
    # between; taking the write lock first makes it wait instead.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
