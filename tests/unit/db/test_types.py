"""Column types and clocks that mean the same on every database."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Column, Connection, Integer, MetaData, Table, create_engine, insert, select
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import StatementError

from db.types import Money, UtcDateTime, ascii_text, blob, database_now, digest, server_now, text

MYSQL: Dialect = mysql.dialect()
SQLITE: Dialect = sqlite.dialect()
# How finely the two clocks are read.
TICK = timedelta(seconds=1)
TABLE = Table(
    "t",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("amount", Money()),
    Column("moment", UtcDateTime()),
    Column("made_at", UtcDateTime(), server_default=server_now()),
)


@pytest.fixture(scope="module")
def connection() -> Iterator[Connection]:
    engine = create_engine("sqlite://")
    with engine.connect() as link:
        TABLE.metadata.create_all(link)
        yield link
    engine.dispose()


def kept(connection: Connection, **values: Any) -> Any:
    """A row as it comes back from SQLite."""
    key = connection.execute(insert(TABLE).values(**values)).inserted_primary_key
    assert key is not None
    return connection.execute(select(TABLE).where(TABLE.c.id == key[0])).one()


@given(amount=st.decimals("0.01", "99999999.99", places=2), zeros=st.integers(0, 60))
def test_an_amount_comes_back_exactly(connection: Connection, amount: Decimal, zeros: int) -> None:
    row = kept(connection, amount=Decimal(f"{amount}{'0' * zeros}"))
    assert str(row.amount) == str(amount)


def test_an_amount_has_two_decimals_on_every_database() -> None:
    assert Money().compile(MYSQL) == "NUMERIC(10, 2)"
    bind = Money().dialect_impl(SQLITE).bind_processor(SQLITE)
    assert bind is not None
    assert [bind(Decimal(text)) for text in ("1", "99.9", "1E+2")] == ["1.00", "99.90", "100.00"]


@given(
    moment=st.datetimes(
        datetime(1000, 1, 2),  # noqa: DTZ001
        datetime(9999, 12, 30),  # noqa: DTZ001
        timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]),
    )
)
def test_a_moment_comes_back_in_utc_to_the_microsecond(
    connection: Connection, moment: datetime
) -> None:
    row = kept(connection, moment=moment)
    assert row.moment == moment
    assert row.moment.tzinfo is UTC


def test_a_naive_datetime_is_refused(connection: Connection) -> None:
    with pytest.raises(StatementError, match="which time zone"):
        kept(connection, moment=datetime(2026, 1, 31))  # noqa: DTZ001


def test_nothing_stays_nothing(connection: Connection) -> None:
    row = kept(connection, moment=None, amount=None)
    assert (row.moment, row.amount) == (None, None)


def test_mysql_keeps_microseconds_and_compares_text_byte_for_byte() -> None:
    assert UtcDateTime().compile(MYSQL) == "DATETIME(6)"
    assert "ascii_bin" in ascii_text(255).compile(MYSQL)
    assert "utf8mb4_bin" in text(255).compile(MYSQL)
    assert digest().compile(MYSQL) == "BINARY(32)"
    assert blob().compile(MYSQL) == "LONGBLOB"


@pytest.mark.parametrize("seconds", [0, 60, -604_800, 0.25, 86_400 * 365])
def test_the_databases_clock_can_be_asked_for_the_time_in_so_many_seconds(
    connection: Connection, seconds: float
) -> None:
    before = datetime.now(UTC)
    found = connection.execute(select(database_now(seconds))).scalar_one()
    there = found - timedelta(seconds=seconds)
    assert before - TICK <= there <= datetime.now(UTC) + TICK


def test_the_databases_clock_compares_with_what_is_stored(connection: Connection) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    row = kept(connection, moment=soon)
    query = select(TABLE.c.id).where(TABLE.c.id == row.id)
    assert connection.execute(query.where(TABLE.c.moment > database_now())).all()
    assert not connection.execute(query.where(TABLE.c.moment > database_now(2 * 3600))).all()


def test_a_default_is_the_servers_clock(connection: Connection) -> None:
    before = datetime.now(UTC)
    row = kept(connection, amount=Decimal(1))
    assert before - TICK <= row.made_at <= datetime.now(UTC) + TICK


def test_one_statement_serves_every_delay() -> None:
    compiled = [select(database_now(seconds)).compile(dialect=MYSQL) for seconds in (1, 2.5)]
    assert str(compiled[0]) == str(compiled[1])
    assert "UTC_TIMESTAMP(6)" in str(compiled[0])
    assert [list(each.params.values()) for each in compiled] == [[1_000_000], [2_500_000]]
