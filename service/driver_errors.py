"""What a driver's error means, in words an operator can act on; never a payload value in them."""

from __future__ import annotations

import errno
import re
import socket
import sqlite3
import ssl
from collections.abc import Iterator

from aiormq.exceptions import (
    AMQPConnectionError,
    AuthenticationError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ConnectionClosed,
    IncompatibleProtocolError,
    InvalidFrameError,
    ProbableAuthenticationError,
    ProtocolSyntaxError,
)
from pamqp.commands import Connection as Frames

from db.engine import SESSION_DIFFERS, FileGoneError
from db.failures import error_number, file_error

# https://dev.mysql.com/doc/mysql-errors/en/ (1000-1999 and 3000 up: server, 2000-2999: client)
_DATABASE = {
    1040: "it has no connection left (max_connections)",
    1203: "the user has no connection left (max_user_connections)",
    1044: "the user has no rights on this database (DB_USER, DB_NAME)",
    # Also for a user who has to use TLS (REQUIRE SSL) and does not.
    1045: "it refused the login: wrong user or password (DB_USER, DB_PASSWORD), or no TLS (DB_TLS)",
    1049: "the database does not exist: create it, or correct DB_NAME",
    1050: "a table of this name is there already, made by another application",
    1053: "it is shutting down",
    1054: "a column is missing: run `orders migrate`",
    1102: "the database's name is not one that it takes (DB_NAME)",
    1114: "a table is full: the disk may be",
    1021: "its disk is full",
    1130: "it does not let this host in",
    1146: "a table is missing: run `orders migrate`",
    1205: "another transaction held a lock for too long",
    1290: "it is read-only",
    1836: "it is read-only",
    1927: "the link was killed",
    SESSION_DIFFERS: "it keeps settings of its own in our session (character set, SQL mode, time "
    "zone): is a proxy in front of it?",
    2006: "the link was lost",
    2013: "the link was lost",
    2026: "TLS failed: it offers none, or its certificate cannot be trusted (DB_TLS, DB_TLS_CA)",
    2059: "the user logs in by a method that the driver does not know: give it "
    "caching_sha2_password or mysql_native_password",
    2055: "the link was lost",
    3159: "it requires TLS (DB_TLS)",
    4031: "it closed an idle link",
}

# https://sqlite.org/rescode.html
_FILE = {
    sqlite3.SQLITE_BUSY: "another program holds its lock: end that one, or name another file",
    sqlite3.SQLITE_LOCKED: "another program holds its lock: end that one, or name another file",
    sqlite3.SQLITE_READONLY: "it is read-only: let this user write to the file and its folder",
    sqlite3.SQLITE_IOERR: "its disk fails to read or write: look at the disk and its file system",
    sqlite3.SQLITE_CORRUPT: "it is damaged: bring a backup back, or move it away to start anew",
    sqlite3.SQLITE_FULL: "its disk is full: make room on it",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: may this user write to the file and its folder?",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database: name another file",
}


# OpenSSL's numbers of what is wrong with a certificate.
_NOT_YET, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64
_DENIED = re.compile(r"([A-Z, ]+) command denied .* for table (?:`[^`]*`\.)?[`'](\w+)[`']")

LINK_LOST = "the link was lost"
_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN}


def explain_database(error: BaseException) -> str:
    """Why the database cannot be used, in a sentence without its subject."""
    for cause in _causes(error):
        if isinstance(cause, FileGoneError):
            return "the file was moved or removed: put it back and start the service again"
        if (code := file_error(cause)) is not None:
            return _FILE.get(code, f"SQLite says: {cause}")
        if isinstance(cause, sqlite3.OperationalError):
            return f"SQLite says: {cause}"
        if (words := _network(cause, "DB")) is not None:
            return words
        if isinstance(cause, OSError):
            continue  # its number is the operating system's
        if isinstance(cause, Exception) and (number := error_number(cause)) is not None:
            if number == 2003:  # noqa: PLR2004 - "can't connect": its own cause says why
                continue
            if number == 1142:  # noqa: PLR2004 - "command denied"
                return f"the user has no right to {_denied(cause)}"
            return _DATABASE.get(number, f"it answered with error {number}")
    text = str(error)
    if "Can't connect" in text:
        return "nobody answers there: is it up, and are host and port right?"
    return type(error).__name__


def explain_broker(error: BaseException) -> str:
    """Why the broker cannot be used, in a sentence without its subject."""
    lost = False
    for cause in _causes(as_said(error)):
        if isinstance(cause, (IncompatibleProtocolError, ProtocolSyntaxError)):
            return "something answers there that does not speak AMQP: is the port right?"
        if isinstance(cause, (ProbableAuthenticationError, AuthenticationError)):
            return "it refused the login: wrong user or password (MQ_USER, MQ_PASSWORD)"
        if isinstance(cause, ConnectionClosed):
            text = str(cause)
            if "vhost" in text and "not found" in text:
                return "the vhost does not exist: create it, or correct MQ_VHOST"
            if "vhost" in text and "refused" in text:
                return "the user may not use this vhost (MQ_USER, MQ_VHOST)"
            return f"it closed the link: {text}"
        if isinstance(cause, (ChannelAccessRefused, ChannelNotFoundEntity)):
            return f"it refused: {cause}"
        # aiormq says with a RuntimeError that a channel or connection is gone.
        words = LINK_LOST if isinstance(cause, RuntimeError) else _network(cause, "MQ")
        if words == LINK_LOST:
            lost = True  # what aiormq makes of every trouble with a link: the cause may say more
        elif words is not None:
            return words
    return LINK_LOST if lost else f"{type(error).__name__}: {error}"


def as_said(error: BaseException) -> BaseException:
    """The error without its wrapping.

    aiormq raises an AMQPConnectionError, itself a ConnectionError, from each failure to connect.
    Of a broker that closes the link instead of opening the vhost it keeps only that it did.
    """
    if isinstance(error, InvalidFrameError):
        close = _close_frame(error)
        return error if close is None else ConnectionClosed(close.reply_code, close.reply_text)
    if type(error) is AMQPConnectionError and error.__cause__ is not None:
        return error.__cause__
    return error


def _close_frame(error: BaseException) -> Frames.Close | None:
    """The frame that the driver was looking at when it raised."""
    trace = error.__traceback__
    while trace is not None:
        if isinstance(frame := trace.tb_frame.f_locals.get("frame"), Frames.Close):
            return frame
        trace = trace.tb_next
    return None


def _denied(error: BaseException) -> str:
    """`INSERT on outbox`, from the server's words, which hold no value of a row."""
    arguments = getattr(error, "orig", error).args
    found = _DENIED.match(str(arguments[-1])) if arguments else None
    return f"{found[1]} on {found[2]}" if found else "do this"


def _untrusted(error: ssl.SSLCertVerificationError, prefix: str) -> str:
    remedy = f"name its authority in {prefix}_TLS_CA"
    if error.verify_code in {_OTHER_HOST, _OTHER_ADDRESS}:
        remedy = f"{prefix}_HOST has to be a name in it"
    elif error.verify_code in {_NOT_YET, _EXPIRED}:
        remedy = "renew it, and look at both clocks"
    return f"TLS failed, its certificate cannot be trusted: {error.verify_message} ({remedy})"


def _network(cause: BaseException, prefix: str) -> str | None:
    if isinstance(cause, TimeoutError):
        return "it did not answer in time"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _untrusted(cause, prefix)
    if isinstance(cause, ssl.SSLError):
        return f"TLS failed: {getattr(cause, 'reason', None) or cause}"
    if isinstance(cause, socket.gaierror):
        return "its host name is unknown"
    if isinstance(cause, ConnectionRefusedError):
        return "nobody listens there: is it up, and are host and port right?"
    if isinstance(cause, OSError) and cause.errno in _UNREACHABLE:
        return "its host cannot be reached"
    if isinstance(cause, ConnectionError):
        return LINK_LOST
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, outermost first."""
    current: BaseException | None = error
    seen = set[int]()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = getattr(current, "orig", None) or current.__cause__ or current.__context__
