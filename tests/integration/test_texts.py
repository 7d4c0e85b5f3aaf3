"""Texts and bytes reach the server as they are: the way their literals are written is ours."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Sequence

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert, literal, select, text, union_all
from sqlalchemy.ext.asyncio import AsyncConnection

from db.engine import Database
from db.types import blob, digest

MANY = 300
HARMLESS_ELSEWHERE = [
    "\\",
    "'",
    '"',
    "\0",
    "\n",
    "\r",
    "\x1a",
    "\t",
    "\b",
    "%",
    "_",
    "`",
    ";",
    "--",
    "#",
]
INJECTIONS = [
    "'; DROP TABLE orders; --",
    "\\'; DROP TABLE orders; --",
    "\\\\' OR '1'='1",
    "\\",
    "'" * 9 + "\\" * 9,
    "\u02bc; DROP TABLE orders; --",
    "\xbf' OR 1=1 --",
    "%s %(a)s :a {0}",
    "/*! SELECT 1 */",
]


def made_up(seed: int, alphabet: Sequence[str]) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(alphabet, k=rng.randint(0, 30))) for _ in range(MANY)]


def any_character(seed: int) -> list[str]:
    rng = random.Random(seed)
    surrogates = range(0xD800, 0xE000)
    points = (rng.randint(0, sys.maxunicode) for _ in range(20 * MANY))
    return [chr(point) for point in points if point not in surrogates]


TEXTS = {
    "each byte of ASCII": [chr(byte) for byte in range(128)],
    "what some escape": HARMLESS_ELSEWHERE,
    "injections": INJECTIONS,
    "quotes and backslashes": made_up(1, ["\\", "'", '"', "x"]),
    "what some escape, mixed": made_up(2, [*HARMLESS_ELSEWHERE, "x", "\u00e9", "\U0001f4e6"]),
    "all of Unicode": made_up(3, any_character(4)),
}


MODES = [
    "",
    "STRICT_ALL_TABLES,NO_ZERO_DATE,ERROR_FOR_DIVISION_BY_ZERO",
    "NO_BACKSLASH_ESCAPES",
    "ANSI_QUOTES",
    "ANSI,TRADITIONAL,NO_BACKSLASH_ESCAPES,PIPES_AS_CONCAT,HIGH_NOT_PRECEDENCE",
]
KEPT = Table(
    "kept",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("digest", digest(), nullable=False, index=True),
    Column("body", blob(), nullable=False),
    prefixes=["TEMPORARY"],
)
BODIES = [
    b"",
    *(bytes([byte]) for byte in range(256)),
    bytes(range(256)),
    b"\0" * 40 + b" " * 40,
    b"'; DROP TABLE orders; --",
    b"\\' OR 1=1 --",
    b"%s %(a)s :a {0}",
    b"\xbf' OR 1=1 --",
    b"'" * 100_000,
    b"\xff" * 100_000,
]


async def under(connection: AsyncConnection, mode: str) -> None:
    await connection.execute(text("SET SESSION sql_mode = :mode"), {"mode": mode})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS.keys())
async def test_a_text_comes_back_as_it_was_sent(
    database: Database, texts: list[str], mode: str
) -> None:
    asked = union_all(
        *(select(literal(number), literal(value)) for number, value in enumerate(texts))
    )
    async with database.trial() as connection:
        await under(connection, mode)
        found = sorted(await connection.execute(asked))
        await connection.invalidate()  # the pool must not have it back in this mode

    assert [value for _, value in found] == texts


@pytest.mark.parametrize("mode", MODES)
async def test_bytes_come_back_as_they_were_sent_and_are_found_again(
    database: Database, mode: str
) -> None:
    digests = [hashlib.sha256(body).digest() for body in BODIES]
    digests[:2] = [b"\0" * 32, b" " * 32]
    rows = [
        {"id": number, "digest": key, "body": body}
        for number, (key, body) in enumerate(zip(digests, BODIES, strict=True), 1)
    ]
    async with database.trial() as connection:
        await under(connection, mode)
        await connection.run_sync(KEPT.create)
        await connection.execute(insert(KEPT).values(rows))
        found = list(await connection.execute(select(KEPT).order_by(KEPT.c.id)))
        wanted = select(KEPT.c.id).where(KEPT.c.digest.in_(digests[::2]))
        again = sorted(await connection.scalars(wanted))
        await connection.invalidate()

    assert [(row.digest, row.body) for row in found] == list(zip(digests, BODIES, strict=True))
    assert again == list(range(1, len(BODIES) + 1, 2))
