"""What a database error means for whoever tries to commit."""

from __future__ import annotations

import sqlite3

import pytest
from pymysql import err
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    StatementError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from db.failures import Failure, classify, error_number


def mysql(number: int, kind: type[Exception] = err.OperationalError) -> DBAPIError:
    return OperationalError("INSERT", {}, kind(number, "text"))


@pytest.mark.parametrize("number", [1062, 1205, 1213, 1020])
def test_who_lost_a_race_tries_again(number: int) -> None:
    assert classify(mysql(number)) is Failure.RACE
    integrity = IntegrityError("INSERT", {}, err.IntegrityError(number, "text"))
    assert classify(integrity) is Failure.RACE


@pytest.mark.parametrize("number", [1264, 1406, 1366, 1048, 3140, 3819, 4025, 1153])
def test_what_a_server_will_never_take_is_not_tried_again(number: int) -> None:
    assert classify(mysql(number, err.DataError)) is Failure.DATA


@pytest.mark.parametrize(
    "number", [1040, 1044, 1045, 1049, 1053, 1114, 1146, 1290, 1836, 2003, 2006, 2013, 9999]
)
def test_what_an_operator_can_mend_is_waited_for(number: int) -> None:
    assert classify(mysql(number)) is Failure.AWAY


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        ConnectionRefusedError(),
        OSError(111, "refused"),
        PoolTimeoutError(),
        InterfaceError("", {}, err.InterfaceError("closed")),
        OperationalError("", {}, err.InternalError("Packet sequence number wrong")),
        RuntimeError("who knows"),
    ],
)
def test_what_is_not_known_is_waited_for_and_never_given_up(error: Exception) -> None:
    assert classify(error) is Failure.AWAY


def test_an_error_number_of_the_operating_system_is_none_of_the_server() -> None:
    assert classify(OSError(1062, "no duplicate")) is Failure.AWAY


@pytest.mark.parametrize(
    ("kind", "text", "failure"),
    [
        (IntegrityError, "UNIQUE constraint failed: orders.order_id", Failure.RACE),
        (IntegrityError, "CHECK constraint failed: ck_orders_total_amount", Failure.DATA),
        (IntegrityError, "NOT NULL constraint failed: orders.user_id", Failure.DATA),
        (OperationalError, "database is locked", Failure.RACE),
        (OperationalError, "database or disk is full", Failure.AWAY),
        (OperationalError, "unable to open database file", Failure.AWAY),
    ],
)
def test_sqlite_has_no_numbers_and_is_understood(
    kind: type[DBAPIError], text: str, failure: Failure
) -> None:
    original = sqlite3.IntegrityError if kind is IntegrityError else sqlite3.OperationalError
    assert classify(kind("INSERT", {}, original(text))) is failure


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (mysql(1045), 1045),
        (err.OperationalError(2003, "x"), 2003),
        (err.InternalError("x"), None),
        (sqlite3.OperationalError("x"), None),
        (ValueError(), None),
    ],
)
def test_an_error_number_is_found_where_there_is_one(error: Exception, number: int | None) -> None:
    assert error_number(error) == number


def test_json_too_deep_for_a_column_is_the_datas_fault() -> None:
    assert classify(mysql(3157)) is Failure.DATA


def test_a_value_that_cannot_be_bound_is_the_datas_fault() -> None:
    error = StatementError("", "INSERT", {}, ValueError("naive"))
    assert classify(error) is Failure.DATA
