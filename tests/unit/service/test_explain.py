"""Errors of drivers in words that an operator can act on."""

from __future__ import annotations

import errno
import socket
import sqlite3
import ssl
from collections.abc import Callable

import pytest
from aiormq.exceptions import (
    AMQPConnectionError,
    ChannelAccessRefused,
    ConnectionClosed,
    ProbableAuthenticationError,
)
from pymysql.err import InternalError as MysqlInternalError
from pymysql.err import OperationalError as MysqlError
from sqlalchemy.exc import DBAPIError, OperationalError

from service.driver_errors import explain_broker, explain_database

CANNOT_CONNECT = "Can't connect to MySQL server on 'db'"


def caused(error: Exception, cause: Exception | None) -> Exception:
    error.__cause__ = cause
    return error


def from_the_driver(original: Exception) -> DBAPIError:
    error = OperationalError("INSERT c4nary", {"p": "c4nary"}, original)
    error.__cause__ = original
    return error


def unreachable(cause: Exception) -> DBAPIError:
    """As aiomysql says it: number 2003, raised from the operating system's error."""
    return from_the_driver(caused(MysqlError(2003, CANNOT_CONNECT), cause))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (
            1045,
            "it refused the login: wrong user or password (DB_USER, DB_PASSWORD), "
            "or no TLS (DB_TLS)",
        ),
        (1049, "the database does not exist: create it, or correct DB_NAME"),
        (1146, "a table is missing: run `orders migrate`"),
        (2013, "the link was lost"),
        (9999, "it answered with error 9999"),
    ],
)
def test_an_error_number_is_put_into_words(number: int, words: str) -> None:
    error = from_the_driver(MysqlError(number, "c4nary"))
    assert explain_database(error) == words
    assert explain_database(MysqlError(number, "c4nary")) == words


NETWORK = [
    (
        ConnectionRefusedError(111, "x"),
        "nobody listens there: is it up, and are host and port right?",
    ),
    (socket.gaierror(-2, "x"), "its host name is unknown"),
    (TimeoutError(), "it did not answer in time"),
    (OSError(errno.EHOSTUNREACH, "x"), "its host cannot be reached"),
    (OSError(errno.ENETUNREACH, "x"), "its host cannot be reached"),
    (ConnectionResetError(104, "x"), "the link was lost"),
    (ssl.SSLError(1, "x"), "TLS failed: x"),
]


@pytest.mark.parametrize(("cause", "words"), NETWORK)
@pytest.mark.parametrize(
    ("explain", "wrap"),
    [
        (explain_database, lambda cause: cause),
        (explain_database, unreachable),
        (explain_broker, lambda cause: cause),
        # As aiormq says it: every trouble with a link is a ConnectionError of its own.
        (explain_broker, lambda cause: caused(AMQPConnectionError(*cause.args), cause)),
    ],
)
def test_a_trouble_of_the_network_is_named_by_what_caused_it(
    explain: Callable[[BaseException], str],
    wrap: Callable[[Exception], Exception],
    cause: Exception,
    words: str,
) -> None:
    assert explain(wrap(cause)) == words


def test_an_unknown_error_of_the_operating_system_is_no_error_number_of_the_server() -> None:
    unknown = unreachable(OSError(errno.EIO, "x"))
    assert (
        explain_database(unknown) == "nobody answers there: is it up, and are host and port right?"
    )


def test_a_trouble_without_a_cause_is_named_by_its_class() -> None:
    error = from_the_driver(MysqlInternalError("Packet sequence number wrong: c4nary"))
    assert explain_database(error) == "OperationalError"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (sqlite3.SQLITE_FULL, "its disk is full"),
        (sqlite3.SQLITE_IOERR_WRITE, "its disk fails"),
        (sqlite3.SQLITE_READONLY, "it is read-only"),
        (sqlite3.SQLITE_CORRUPT, "it is damaged"),
        (sqlite3.SQLITE_NOTADB, "it is no SQLite database"),
        (sqlite3.SQLITE_BUSY, "another program holds its lock"),
        (sqlite3.SQLITE_CANTOPEN, "it cannot be opened"),
    ],
)
def test_what_ails_a_file_is_said_with_what_to_do(code: int, words: str) -> None:
    error = sqlite3.OperationalError("x")
    error.sqlite_errorcode = code
    assert explain_database(from_the_driver(error)).startswith(words)


def test_sqlite_is_quoted() -> None:
    error = from_the_driver(sqlite3.OperationalError("database or disk is full"))
    assert explain_database(error) == "SQLite says: database or disk is full"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            ProbableAuthenticationError("ACCESS_REFUSED"),
            "it refused the login: wrong user or password (MQ_USER, MQ_PASSWORD)",
        ),
        (
            ConnectionClosed(530, "NOT_ALLOWED - vhost shop not found"),
            "the vhost does not exist: create it, or correct MQ_VHOST",
        ),
        (
            ConnectionClosed(530, "NOT_ALLOWED - access to vhost 'shop' refused for user 'u'"),
            "the user may not use this vhost (MQ_USER, MQ_VHOST)",
        ),
        (AMQPConnectionError("Server connection unexpectedly closed"), "the link was lost"),
    ],
)
def test_a_refusal_of_the_broker_is_put_into_words(error: Exception, words: str) -> None:
    assert explain_broker(error) == words
    assert explain_broker(caused(AMQPConnectionError("x"), error)) == words


def test_a_missing_right_is_told_in_the_brokers_words() -> None:
    error = ChannelAccessRefused(403, "ACCESS_REFUSED - write access to exchange refused")
    assert "write access to exchange refused" in explain_broker(error)


def test_errors_that_cause_each_other_end() -> None:
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__cause__ = other, one
    assert explain_database(one) == "ValueError"
    assert explain_broker(one) == "ValueError: one"


def test_no_parameter_of_a_statement_is_in_the_words() -> None:
    for original in (MysqlError(1406, "Data too long: c4nary"), MysqlInternalError("c4nary")):
        assert "c4nary" not in explain_database(from_the_driver(original))
