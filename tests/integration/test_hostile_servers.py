"""Whatever a server is set to for everyone: sessions are ours, and a message stays a message."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import literal, select, text, union_all
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from db import engine
from db.engine import SESSION, SESSION_DIFFERS
from db.failures import error_number
from db.models import DeadLetter, Order
from service.config.settings import Settings
from service.database import migrate, open_database
from service.driver_errors import explain_database
from tests.factories import order_created_json
from tests.harness import eventually, rows, running, settings_for
from tests.integration.test_texts import INJECTIONS, TEXTS
from tests.servers import AnyDatabase, DatabaseServer, private_database

MODES = (
    "",
    "NO_BACKSLASH_ESCAPES",
    "ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT,NO_AUTO_VALUE_ON_ZERO",
    "ANSI",
    "TRADITIONAL",
)
# Of the last four a quote or a backslash may be the second byte of a character.
CHARACTER_SETS = ("latin1", "utf8mb3", "ucs2", "gbk", "big5", "sjis", "cp932")
CLIENTS = tuple(each for each in CHARACTER_SETS if each != "ucs2")  # no client may use it
HOSTILE = (
    "--sql-mode=ANSI_QUOTES,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT,NO_AUTO_VALUE_ON_ZERO",
    "--character-set-server=latin1",
    "--collation-server=latin1_swedish_ci",
    "--default-time-zone=-05:00",
    "--wait-timeout=5",
    "--interactive-timeout=5",
    "--innodb-lock-wait-timeout=1",
    "--loose-skip-character-set-client-handshake",
    "--loose-character-set-client-handshake=OFF",
    "--loose-sql-safe-updates=ON",
    "--init-connect=SET NAMES gbk, sql_mode = 'NO_BACKSLASH_ESCAPES', time_zone = '+05:30'",
)
# Multi-byte characters before a quote or a backslash, as UTF-8 and as what a server may read.
TRICKS = [f"{lead}{end}" for lead in "\u4e16\u00e9\u20ac\U0001f984" for end in INJECTIONS]
DROP = "'/**/;DROP/**/TABLE/**/orders;--"
FIELDS = (DROP, f"\\{DROP}", f"\\\\{DROP}", '"' + DROP, "\\", "'", "%s%(x)s{}")


@pytest.fixture
def stranger(database_server: AnyDatabase, database_url: str) -> Iterator[Settings]:
    """A user without special rights: for others the server leaves its init_connect out."""
    if not isinstance(database_server, DatabaseServer):
        pytest.skip("the database server is not ours to set up")
    with the_user(database_server, database_url) as settings:
        yield settings


@contextmanager
def the_user(server: DatabaseServer, url: str) -> Iterator[Settings]:
    name, password = f"u{secrets.token_hex(4)}", secrets.token_hex(8)
    server.execute(
        f"CREATE USER '{name}'@'%' IDENTIFIED BY '{password}';"
        f"GRANT ALL ON `{make_url(url).database}`.* TO '{name}'@'%';"
    )
    given = make_url(url).set(username=name, password=password)
    yield settings_for(database_url=given.render_as_string(hide_password=False))
    server.execute(f"DROP USER '{name}'@'%'")


@contextmanager
def set_for_everyone(server: DatabaseServer, **variables: str) -> Iterator[None]:
    before = {name: server.execute(f"SELECT @@GLOBAL.{name}").strip() for name in variables}

    def change(values: dict[str, str]) -> None:
        for name, value in values.items():
            server.execute(f'SET SESSION sql_mode = ""; SET GLOBAL {name} = "{value}"')

    change(variables)
    try:
        yield
    finally:
        change(before)


async def session_of(settings: Settings) -> dict[str, str]:
    database = open_database(settings)
    try:
        async with database.reading() as connection:
            asked = text("SELECT " + ", ".join(f"@@SESSION.{name}" for name in SESSION))
            return dict(
                zip(SESSION, map(str, (await connection.execute(asked)).one()), strict=True)
            )
    finally:
        await database.dispose()


async def comes_back(settings: Settings, texts: list[str]) -> None:
    asked = union_all(
        *(select(literal(number), literal(each)) for number, each in enumerate(texts))
    )
    database = open_database(settings)
    try:
        async with database.reading() as connection:
            found = sorted(await connection.execute(asked))
    finally:
        await database.dispose()
    assert [each for _, each in found] == texts


async def messages_stay_messages(settings: Settings) -> None:
    """Each field of an order, and a refused body with its headers, as an attacker writes them."""
    database = open_database(settings)
    await migrate(database)
    expected = set()
    try:
        async with running(settings) as app:
            broker = app.service.broker
            for number, field in enumerate(FIELDS):
                ids = {"orderId": f"o{number}{field}", "idempotencyKey": f"k{number}{field}"}
                items = [
                    {"sku": each, "quantity": 1, "unitPrice": "1.00"}
                    for each in (field, *TRICKS, *TEXTS["injections"])
                ]
                body = order_created_json(**ids, userId=field, items=items)
                await broker.publish(body, queue="order_created_queue")
                expected.add((ids["orderId"], ids["idempotencyKey"], field))
            refused = json.dumps({"orderId": TRICKS[0] + DROP}).encode() + DROP.encode() + b"\xbf'"
            await broker.publish(
                refused, queue="order_created_queue", headers={DROP: TRICKS[1] + DROP}
            )

            async def all_is_stored() -> bool:
                return len(await rows(database, Order)) == len(FIELDS) and bool(
                    await rows(database, DeadLetter)
                )

            await eventually(all_is_stored)
        stored = await rows(database, Order)
        (dead,) = await rows(database, DeadLetter)
        assert {(each.order_id, each.idempotency_key, each.user_id) for each in stored} == expected
        for each in stored:
            assert [item["sku"] for item in each.items[1:]] == [*TRICKS, *TEXTS["injections"]]
        assert dead.body == refused
        assert dead.headers[DROP] == TRICKS[1] + DROP
    finally:
        await database.dispose()


@pytest.mark.parametrize("mode", MODES)
async def test_a_session_is_ours_and_texts_come_back_under_every_mode_and_character_set(
    database_server: DatabaseServer, stranger: Settings, mode: str
) -> None:
    for server_wide in CHARACTER_SETS:
        with set_for_everyone(
            database_server,
            sql_mode=mode,
            character_set_server=server_wide,
            time_zone="-05:00",
        ):
            assert await session_of(stranger) == SESSION
            await comes_back(stranger, [*TRICKS, *TEXTS["injections"], *TEXTS["all of Unicode"]])


@pytest.mark.parametrize("client", CLIENTS)
async def test_no_init_connect_makes_a_message_a_statement(
    database_server: DatabaseServer, stranger: Settings, client: str
) -> None:
    statement = f"SET NAMES {client}, sql_mode = 'NO_BACKSLASH_ESCAPES', time_zone = '+05:30'"
    with set_for_everyone(database_server, sql_mode="NO_BACKSLASH_ESCAPES", init_connect=statement):
        assert await session_of(stranger) == SESSION
        await messages_stay_messages(stranger)


async def test_no_server_wide_setting_makes_a_message_a_statement(
    database_server: AnyDatabase,
) -> None:
    if not database_server.private:
        pytest.skip("a server with settings of its own has to be ours")
    server = private_database()
    server.options = HOSTILE
    with server, the_user(server, server.create_database("hostile")) as settings:
        assert await session_of(settings) == SESSION
        await messages_stay_messages(settings)


async def test_a_session_that_is_not_ours_is_not_used(
    stranger: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As behind a proxy that takes a SET and does not pass it on."""
    monkeypatch.setattr(engine, "_SET_SESSION", "SET time_zone = '-05:00'")
    database = open_database(stranger)
    with pytest.raises(OperationalError) as refused:
        async with database.reading():
            pass
    await database.dispose()
    assert error_number(refused.value) == SESSION_DIFFERS
    assert explain_database(refused.value).startswith("it keeps settings of its own")


@pytest.mark.parametrize("text_", TRICKS[:3])
async def test_a_literal_ends_where_it_should_in_a_session_without_backslash_escapes(
    stranger: Settings, monkeypatch: pytest.MonkeyPatch, text_: str
) -> None:
    """Even where nothing verified the session: the text that was meant, never a statement."""
    monkeypatch.setattr(engine, "_SET_SESSION", "SET sql_mode = 'NO_BACKSLASH_ESCAPES'")

    async def verified(_: object) -> None:
        return None

    monkeypatch.setattr(engine, "_verify_session", verified)
    database = open_database(stranger)
    try:
        async with database.reading() as connection:
            found = await connection.scalar(select(literal(text_)))
    finally:
        await database.dispose()
    assert found == text_
