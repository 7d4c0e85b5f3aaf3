"""Column types that mean the same on MySQL, MariaDB and SQLite, and the database's own clock."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    BINARY,
    BindParameter,
    DateTime,
    Dialect,
    Integer,
    LargeBinary,
    Numeric,
    String,
    TypeDecorator,
    literal,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine


def ascii_text(length: int) -> TypeEngine[str]:
    """Printable ASCII, compared byte for byte on every database."""
    column = mysql.VARCHAR(length, charset="ascii", collation="ascii_bin")
    return String(length).with_variant(column, "mysql", "mariadb")


def text(length: int) -> TypeEngine[str]:
    """Any Unicode text up to `length` characters, compared by code point."""
    column = mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin")
    return String(length).with_variant(column, "mysql", "mariadb")


def digest() -> TypeEngine[bytes]:
    """A SHA-256 digest, 32 bytes."""
    return LargeBinary(32).with_variant(BINARY(32), "mysql", "mariadb")


def blob() -> TypeEngine[bytes]:
    """Bytes exactly as they were on the wire, up to 4 GiB."""
    return LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC to the microsecond; naive datetimes are refused."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name in {"mysql", "mariadb"}:
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime cannot be stored: say which time zone it is in")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Money(TypeDecorator[Decimal]):
    """DECIMAL(10,2), exact. SQLite has no decimal type: it keeps the text, such as `99.90`."""

    impl = Numeric(10, 2)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(11))
        return dialect.type_descriptor(Numeric(10, 2))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return f"{value:.2f}"

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value)


class database_now(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """The database server's clock in UTC, plus `seconds`; leases and delays go by it alone.

    Instead of seconds, a parameter may stand there, to be bound to a number of microseconds.
    """

    type = UtcDateTime()
    inherit_cache = True

    def __init__(self, seconds: float | BindParameter[Any] = 0) -> None:
        bound = seconds if isinstance(seconds, BindParameter) else literal(microseconds(seconds))
        super().__init__(bound)


def microseconds(seconds: float) -> int:
    """What a parameter of `database_now` is bound to."""
    return round(seconds * 1_000_000)


@compiles(database_now, "mysql")
@compiles(database_now, "mariadb")
def _mysql_now(element: database_now, compiler: SQLCompiler, **options: Any) -> str:
    microseconds = compiler.process(element.clauses, **options)
    return f"TIMESTAMPADD(MICROSECOND, {microseconds}, UTC_TIMESTAMP(6))"


@compiles(database_now, "sqlite")
def _sqlite_now(element: database_now, compiler: SQLCompiler, **options: Any) -> str:
    microseconds = compiler.process(element.clauses, **options)
    # Text in the format in which SQLAlchemy stores a DateTime, so that it compares as time.
    return f"STRFTIME('%Y-%m-%d %H:%M:%f000', 'now', ({microseconds} / 1000000.0) || ' seconds')"


class server_now(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """A column default: the server's clock. Sessions of this service run in UTC."""

    type = UtcDateTime()
    inherit_cache = True


@compiles(server_now, "mysql")
@compiles(server_now, "mariadb")
def _mysql_default(element: server_now, compiler: SQLCompiler, **options: Any) -> str:
    return "CURRENT_TIMESTAMP(6)"


@compiles(server_now, "sqlite")
def _sqlite_default(element: server_now, compiler: SQLCompiler, **options: Any) -> str:
    return "(STRFTIME('%Y-%m-%d %H:%M:%f000', 'now'))"


class json_length(FunctionElement[int]):  # noqa: N801 - reads as the SQL function it is
    """How many elements a JSON array has, without reading it over the link."""

    type = Integer()
    inherit_cache = True


@compiles(json_length, "mysql")
@compiles(json_length, "mariadb")
def _mysql_json_length(element: json_length, compiler: SQLCompiler, **options: Any) -> str:
    return f"JSON_LENGTH({compiler.process(element.clauses, **options)})"


@compiles(json_length, "sqlite")
def _sqlite_json_length(element: json_length, compiler: SQLCompiler, **options: Any) -> str:
    return f"JSON_ARRAY_LENGTH({compiler.process(element.clauses, **options)})"
