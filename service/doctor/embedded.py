"""Looking at the SQLite file of the embedded mode, without making one and without writing to it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from db import inspection, schema
from service.config.settings import Settings
from service.doctor import rules
from service.doctor.findings import Finding, Level
from service.doctor.rules import DATABASE
from service.driver_errors import explain_database

ANSWER_SECONDS = 5.0
NO_CLAIM = "embedded: one process, and no more durable than its file system"


async def check_file(settings: Settings) -> list[Finding]:
    name = settings.database.database
    kind = Finding(DATABASE, "kind", Level.OK, f"SQLite; {NO_CLAIM}")
    if not name or name == ":memory:":
        found = "in memory: every order is gone when the process ends"
        return [kind, Finding(DATABASE, "file", Level.WARNING, found, "set SQLITE_PATH")]
    path = Path(name)
    file = _file(path)
    if file.level is not Level.OK:
        return [kind, file]
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            return [kind, file, *await _content(path)]
    except (SQLAlchemyError, TimeoutError, OSError) as error:
        why = getattr(error, "orig", None) or explain_database(error)
        return [kind, Finding(DATABASE, "file", Level.WRONG, f"{path} cannot be read: {why}")]


def _file(path: Path) -> Finding:
    if not path.is_file():
        advice = "the service makes it when it starts in the embedded mode; or run `orders migrate`"
        return Finding(DATABASE, "file", Level.WARNING, f"{path} is not there", advice)
    return Finding(DATABASE, "file", Level.OK, f"{path}, {path.stat().st_size / 1024:.0f} KiB")


async def _content(path: Path) -> list[Finding]:
    engine = inspection.read_only_sqlite(path)
    try:
        async with engine.connect() as connection:
            version = rules.schema_version(await schema.current_version(connection))
    except schema.ForeignTablesError as error:
        return [Finding(DATABASE, "schema version", Level.WRONG, str(error))]
    finally:
        await engine.dispose()
    if inspection.sqlite_is_wal(path):
        return [version, Finding(DATABASE, "journal", Level.OK, "WAL")]
    advice = "the service turns WAL on when it starts"
    return [version, Finding(DATABASE, "journal", Level.WARNING, "no WAL", advice)]
