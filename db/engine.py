"""The engine: READ COMMITTED, UTC, and a deadline on everything that talks to the server."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiomysql
from pydantic_core import to_json
from pymysql.constants import CLIENT, SERVER_STATUS
from pymysql.err import OperationalError
from sqlalchemy import event
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from db.failures import READ_ONLY_ERRORS, error_number

# How long after its deadline a transaction may still be busy giving its connection back.
GIVE_BACK_SECONDS = 1.0

# The server ends the session of a process that stands still, with the locks that it holds: others
# wait for them. Connections of the pool are made anew long before.
SILENCE_SECONDS = 60

# Waiting for the lock of an SQLite file: shorter than the probes', so that they can say why.
FILE_LOCK_SECONDS = 2

TLS_FAILED = 2026  # CR_SSL_CONNECTION_ERROR
SESSION_DIFFERS = 2000  # CR_UNKNOWN_ERROR: no number of the server's fits

# What a session is for this service, whatever the server's defaults and its init_connect say. How
# texts are escaped rests on the character set and on the SQL mode.
SESSION = {
    "character_set_client": "utf8mb4",
    "character_set_connection": "utf8mb4",
    "character_set_results": "utf8mb4",
    "sql_mode": "STRICT_ALL_TABLES,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO",
    "time_zone": "+00:00",
    "sql_safe_updates": "0",
    "sql_select_limit": "18446744073709551615",
    "wait_timeout": str(SILENCE_SECONDS),
}
_SET_SESSION = "SET " + ", ".join(
    f"{name} = {value if value.isdigit() else repr(value)}" for name, value in SESSION.items()
)
_ASK_SESSION = "SELECT " + ", ".join(f"@@SESSION.{name}" for name in SESSION)


class FileGoneError(OSError):
    """The SQLite file is not there any more, or is another one: what is written now is lost."""


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
        """A transaction of which nothing stays, with the same deadline.

        SQLite asks for room on the disk when it commits, and not before. What is undone there
        still has its pages written.
        """
        async with self._connected() as connection:
            transaction = await connection.begin()
            if not self.is_file:
                yield connection
                await transaction.rollback()
                return
            undone = await connection.begin_nested()
            yield connection
            await undone.rollback()
            await transaction.commit()

    @property
    def is_file(self) -> bool:
        """Whether it is an SQLite file rather than a server."""
        return self.engine.dialect.name == "sqlite"

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for reading, with the same deadline; nothing is committed."""
        async with self._connected() as connection:
            yield connection

    @asynccontextmanager
    async def migrating(self, seconds: float) -> AsyncIterator[AsyncConnection]:
        """A connection that may be used for longer; connecting has the same deadline."""
        async with self._connected(seconds) as connection:
            yield connection

    async def dispose(self) -> None:
        await self.engine.dispose()

    @asynccontextmanager
    async def _connected(self, seconds: float | None = None) -> AsyncIterator[AsyncConnection]:
        """A connection of the pool, with a deadline on everything, its way back included.

        A connection on its way back is rolled back, and SQLAlchemy lets nobody cancel that: with a
        server that has stopped answering it would wait for ever. So the link is cut under it.
        """
        loop = asyncio.get_running_loop()
        latest = loop.time() + (seconds or self.timeout_seconds)
        cut: asyncio.TimerHandle | None = None
        try:
            async with (
                asyncio.timeout(self.timeout_seconds) as deadline,
                self.engine.connect() as connection,
            ):
                deadline.reschedule(latest)
                if self.engine.dialect.name == "mysql":
                    link = (await connection.get_raw_connection()).driver_connection
                    cut = loop.call_at(latest + GIVE_BACK_SECONDS, _cut, link)
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
            connect_args={"timeout": FILE_LOCK_SECONDS, "isolation_level": None},
        )
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_immediate)
        if url.database and url.database != ":memory:":
            _watch_file(engine, Path(url.database))
        return engine
    arguments: dict[str, Any] = {
        "connect_timeout": connect_timeout_seconds,
        "charset": "utf8mb4",
        "init_command": _SET_SESSION,
        "async_creator_fn": _connect,
    }
    if tls is not None:
        arguments["ssl"] = tls
    engine = create_async_engine(
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
    event.listen(engine.sync_engine, "handle_error", _discard)
    return engine


def _discard(context: ExceptionContext) -> None:
    """Use no connection again that another one may do better, or that is left in a transaction.

    A server that turned read-only is no longer the primary: a new connection finds the one that is,
    and those of the pool lead to the old one. A COMMIT that is refused may leave its transaction
    open, and nothing rolls it back: the next user of the connection would commit it.
    """
    if context.statement is None:  # COMMIT or ROLLBACK
        context.is_disconnect, context.invalidate_pool_on_disconnect = True, False
    if error_number(context.original_exception) in READ_ONLY_ERRORS:
        context.is_disconnect = context.invalidate_pool_on_disconnect = True


class _Connection(aiomysql.Connection):  # type: ignore[misc]
    """The driver's connection, with literals written at a fraction of the cost."""

    def escape(self, obj: Any) -> str:
        """A literal. Bytes are two digits each, whatever they are, under any sql_mode.

        The driver goes byte by byte, and some bytes cost it twenty times what others do.
        https://dev.mysql.com/doc/refman/9.4/en/hexadecimal-literals.html
        """
        if isinstance(obj, str):
            return f"'{self.escape_string(obj)}'"
        if isinstance(obj, bytes):
            return f"x'{obj.hex()}'"
        return str(super().escape(obj))

    def escape_string(self, s: str) -> str:
        """The inside of a literal in single quotes, under utf8mb4.

        There the server asks for these two to be escaped and no other:
        https://dev.mysql.com/doc/c-api/9.4/en/mysql-real-escape-string.html
        The driver escapes five more, for the reader of a log, and goes letter by letter for it.
        A quote is doubled, which ends no literal in any SQL mode.
        """
        quoted = s.replace("'", "''")
        if self.server_status & SERVER_STATUS.SERVER_STATUS_NO_BACKSLASH_ESCAPES:
            return quoted  # no session of ours is like that; the server says it with each answer
        return quoted.replace("\\", "\\\\")


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
    # The driver encodes a password as latin1; the server was told it in UTF-8.
    options["password"] = (options.get("password") or "").encode().decode("latin1")
    connection = kind(*arguments, **options)
    await connection._connect()  # noqa: SLF001 - what aiomysql.connect does with its own class
    try:
        await _verify_session(connection)
    except BaseException:
        connection.close()
        raise
    return connection


async def _verify_session(connection: aiomysql.Connection) -> None:
    """A proxy may drop what was set, or hand the statement to another session.

    Raises:
        OperationalError: the session is not what was asked for.
    """
    async with connection.cursor() as cursor:
        await cursor.execute(_ASK_SESSION)
        found = dict(zip(SESSION, map(str, await cursor.fetchone()), strict=True))
    found["sql_mode"] = ",".join(sorted(found["sql_mode"].split(",")))
    needed = SESSION | {"sql_mode": ",".join(sorted(SESSION["sql_mode"].split(",")))}
    if different := [name for name in SESSION if found[name] != needed[name]]:
        raise OperationalError(SESSION_DIFFERS, f"the session keeps its own {different}")


def _json(value: Any) -> str:
    """Without spaces: what goes into a JSON column is escaped and sent, letter by letter."""
    return to_json(value).decode()


def _prepare_sqlite(connection: Any, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _watch_file(engine: AsyncEngine, path: Path) -> None:
    """Fail each transaction on a file other than the first, and never make it a second time."""
    first: list[tuple[int, int] | None] = []

    def check(*_: Any) -> None:
        if first and first[0] != _identity(path):
            raise FileGoneError

    def opened(*_: Any) -> None:
        if not first:
            first.append(_identity(path))

    event.listen(engine.sync_engine, "do_connect", check)
    event.listen(engine.sync_engine, "connect", opened)
    event.listen(engine.sync_engine, "begin", check)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _begin_immediate(connection: Any) -> None:
    # A transaction that starts reading and then writes fails at once where another one wrote in
    # between; taking the write lock first makes it wait instead.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
