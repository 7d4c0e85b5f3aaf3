"""What a database error means for whoever tries to commit."""

from __future__ import annotations

import sqlite3
from enum import Enum, auto

from sqlalchemy.exc import DBAPIError, IntegrityError, StatementError

# MySQL and MariaDB error numbers: https://dev.mysql.com/doc/mysql-errors/en/server-error-reference.html
DUPLICATE_ENTRY = 1062
LOCK_WAIT_TIMEOUT = 1205  # MariaDB says so of NOWAIT too
LOCK_NOWAIT = 3572
DEADLOCK = 1213
RECORD_CHANGED = 1020  # MariaDB 11.6+, where another transaction changed what was read
RACES = {DUPLICATE_ENTRY, LOCK_WAIT_TIMEOUT, LOCK_NOWAIT, DEADLOCK, RECORD_CHANGED}
# What a server says of data that it will never take, whoever sends it and how often.
DATA_ERRORS = frozenset({1048, 1063, 1153, 1264, 1265, 1292, 1366, 1406})
DATA_ERRORS |= {3140, 3141, 3150, 3151, 3157, 3819, 4025}
# What a server says of itself: its time, its room, its state, or an interruption.
# Never a message's fault, however often it is said.
SERVER_ERRORS = frozenset({1317, 1969, 3024})  # interrupted; max_statement_time; max_execution_time
SERVER_ERRORS |= {1021, 1026, 1041, 1037, 1114, 1180, 1206, 3100, 3101}  # disk, memory, commit
SERVER_ERRORS |= {1040, 1053, 1203, 1226, 1927, 3159, 4031}  # connections, limits, shutdown
# The client library's own: https://dev.mysql.com/doc/mysql-errors/en/client-error-reference.html
CLIENT_ERRORS = range(2000, 3000)
# Read-only: a replica, a primary that was switched, a global read lock.
READ_ONLY_ERRORS = frozenset({1223, 1290, 1792, 1836})
SERVER_ERRORS |= READ_ONLY_ERRORS | {3098}  # a table that the replication refuses
# A right that is missing, on a table, a column or the database: the user's lack, and no data's.
RIGHT_ERRORS = frozenset({1044, 1142, 1143, 1227, 1370})

# SQLite's result codes about the file and its disk: https://sqlite.org/rescode.html
FILE_ERRORS = frozenset(
    {sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY}
    | {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN}
    | {sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_NOTADB}
)


class Failure(Enum):
    """RACE: try again at once. AWAY: try again when the server is well. DATA: never try again."""

    RACE = auto()
    AWAY = auto()
    DATA = auto()


def classify(error: Exception) -> Failure:
    """What to do about an error from a transaction.

    Everything unknown counts as AWAY: a message is kept and tried again rather than given up,
    because giving up on the strength of a guess would lose it.
    """
    if not isinstance(error, DBAPIError):
        return Failure.DATA if isinstance(error, StatementError) else Failure.AWAY
    code = error_number(error)
    if code in RACES:
        return Failure.RACE
    if code in DATA_ERRORS:
        return Failure.DATA
    if isinstance(error, IntegrityError):  # SQLite has no numbers
        return Failure.RACE if "UNIQUE constraint" in str(error.orig) else Failure.DATA
    if "database is locked" in str(error.orig):
        return Failure.RACE
    return Failure.AWAY


def link_lost(error: BaseException) -> bool:
    """Whether the connection failed, which says nothing about what was sent over it."""
    number = error_number(error)
    broken = isinstance(error, DBAPIError) and error.connection_invalidated
    return broken or isinstance(error, OSError) or number in CLIENT_ERRORS


def error_number(error: BaseException) -> int | None:
    """The server's error number, or None where it has none."""
    original = error.orig if isinstance(error, DBAPIError) else error
    arguments = getattr(original, "args", ())
    return arguments[0] if arguments and isinstance(arguments[0], int) else None


def file_error(error: BaseException) -> int | None:
    """SQLite's result code where the file or its disk is at fault, and no data."""
    code = getattr(getattr(error, "orig", error), "sqlite_errorcode", None)
    primary = code & 0xFF if isinstance(code, int) else None
    return primary if primary in FILE_ERRORS else None
