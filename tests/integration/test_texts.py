"""Texts reach the server as they are, whatever stands in them: the way they are escaped is ours."""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence

import pytest
from sqlalchemy import literal, select, union_all

from db.engine import Database

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


@pytest.mark.parametrize("texts", TEXTS.values(), ids=TEXTS.keys())
async def test_a_text_comes_back_as_it_was_sent(database: Database, texts: list[str]) -> None:
    asked = union_all(
        *(select(literal(number), literal(text)) for number, text in enumerate(texts))
    )
    async with database.reading() as connection:
        found = sorted(await connection.execute(asked))

    assert [text for _, text in found] == texts
