"""Looking at a MySQL or MariaDB server as the service would use it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from db import inspection, schema
from db.engine import Database
from db.failures import error_number
from db.inspection import RefusedRight
from service.config.settings import Settings
from service.database import open_database
from service.doctor import rules
from service.doctor.findings import Finding, Level
from service.doctor.rules import DATABASE
from service.driver_errors import explain_database

ANSWER_SECONDS = 5.0
CLOSE_SECONDS = 2.0
# The server answered, so it is reachable; what it said is about the login, or about the database.
_LOGIN_ERRORS = frozenset({1040, 1045, 1130, 1203, 1251, 1698, 1820, 1862, 3118, 3159, 3955, 4151})
_DATABASE_ERRORS = frozenset({1044, 1049})
# Without these there are no tables to look at.
_NEEDED_FOR_THE_REST = frozenset({"database", "schema version"})
_NO_RIGHT = frozenset({1142, 1143, 1370})

Look = Callable[[AsyncConnection], Awaitable[list[Finding]]]


async def check_server(settings: Settings) -> list[Finding]:
    """Never longer than the connect timeout, and then some seconds for each question."""
    try:
        database = open_database(settings)
    except OSError as error:
        return [_finding("TLS", Level.WRONG, explain_database(error))]
    try:
        return await _connect_and_look(database, settings)
    finally:
        # A server that stopped answering is not waited for to say goodbye.
        with contextlib.suppress(SQLAlchemyError, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await database.dispose()


async def _connect_and_look(database: Database, settings: Settings) -> list[Finding]:
    try:
        async with asyncio.timeout(settings.db_connect_timeout_seconds):
            connection = await database.engine.connect()
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        return _no_connection(settings, error)
    findings = [_finding("reachable", Level.OK, _address(settings))]
    try:
        for name, look in _looks(settings):
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    findings += await look(connection)
            except DBAPIError as error:
                if error.connection_invalidated:
                    raise
                findings.append(_finding(name, Level.UNKNOWN, explain_database(error)))
            if findings[-1].level is Level.WRONG and name in _NEEDED_FOR_THE_REST:
                break
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        findings.append(_finding("stopped answering", Level.WRONG, explain_database(error)))
    finally:
        with contextlib.suppress(SQLAlchemyError, OSError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await connection.close()
    return findings


def _looks(settings: Settings) -> Sequence[tuple[str, Look]]:
    """In this order; nothing about tables is asked where there are none."""

    async def login(connection: AsyncConnection) -> list[Finding]:
        return [_login(settings, await inspection.tls_version(connection))]

    return (
        ("login", login),
        ("database", _database),
        ("version", _version),
        ("settings", _settings),
        ("clock", _clock),
        ("schema version", _schema),
        ("tables", _tables),
        ("rights", _rights),
    )


def _login(settings: Settings, tls: str) -> Finding:
    found = f"as {settings.database.username}, {tls or 'without TLS'}"
    if tls or settings.database_tls() is None:
        return _finding("login", Level.OK, found)
    # The driver goes on in plain text where the server does not offer TLS.
    advice = "DB_TLS is set and the server offers none: orders and passwords can be read on the way"
    return _finding("login", Level.WRONG, found, advice)


async def _database(connection: AsyncConnection) -> list[Finding]:
    name = await inspection.database_in_use(connection)
    if name is None:
        advice = "DATABASE_URL has to end in the name of the database"
        return [_finding("database", Level.WRONG, "none is named", advice)]
    return [_finding("database", Level.OK, name)]


async def _version(connection: AsyncConnection) -> list[Finding]:
    return [rules.version(await inspection.server_version(connection))]


async def _settings(connection: AsyncConnection) -> list[Finding]:
    return rules.settings(await inspection.global_variables(connection, rules.VARIABLES))


async def _clock(connection: AsyncConnection) -> list[Finding]:
    return [rules.clock(await inspection.clock_offset(connection))]


async def _schema(connection: AsyncConnection) -> list[Finding]:
    try:
        return [rules.schema_version(await schema.current_version(connection))]
    except schema.ForeignTablesError as error:
        return [_finding("schema version", Level.WRONG, str(error))]


async def _tables(connection: AsyncConnection) -> list[Finding]:
    return [
        rules.engines(await inspection.table_engines(connection)),
        rules.collations(await inspection.id_collations(connection)),
    ]


async def _rights(connection: AsyncConnection) -> list[Finding]:
    return [rights(await inspection.refused_rights(connection))]


def rights(refused: Sequence[RefusedRight]) -> Finding:
    missing = [each for each in refused if error_number(each.error) in _NO_RIGHT]
    if missing:
        text = ", ".join(f"{each.verb} on {each.table}" for each in missing)
        return _finding("rights", Level.WRONG, f"the user may not {text}", "GRANT it to the user")
    if refused:
        first = refused[0]
        text = f"{first.verb} on {first.table} fails: {explain_database(first.error)}"
        return _finding("rights", Level.WRONG, text)
    tables = ", ".join(table.name for table in inspection.TABLES)
    return _finding("rights", Level.OK, f"all that are needed on {tables}")


def _no_connection(settings: Settings, error: Exception) -> list[Finding]:
    number = error_number(error)
    reached = _finding("reachable", Level.OK, _address(settings))
    why = explain_database(error)
    if number in _LOGIN_ERRORS:
        found = [reached, _finding("login", Level.WRONG, why)]
    elif number in _DATABASE_ERRORS:
        name = settings.database.database
        login = _finding("login", Level.OK, f"as {settings.database.username}")
        found = [reached, login, _finding("database", Level.WRONG, f"{name}: {why}")]
    else:
        found = [_finding("reachable", Level.WRONG, f"{_address(settings)}: {why}")]
    return [*found, _finding("the rest", Level.UNKNOWN, "cannot be asked")]


def _address(settings: Settings) -> str:
    return f"{settings.database.host}:{settings.database.port or 3306}"


def _finding(name: str, level: Level, found: str, advice: str = "") -> Finding:
    return Finding(DATABASE, name, level, found, advice)
