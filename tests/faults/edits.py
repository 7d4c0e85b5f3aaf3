"""Small changes of a body: of its bytes, and of the JSON in it. Pure: an edit gives one body."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from tests.faults.corpus.case import CANARY
from tests.faults.corpus.series import Pairs, Series, Verbatim, body_of, line, text_of


class Edit(NamedTuple):
    """Which change, and two numbers that say where and what, taken modulo what there is."""

    kind: int
    where: int
    what: int


def _bases() -> tuple[bytes, ...]:
    series = Series("base")
    plain = series.order()
    rich = series.order(
        totalAmount="99999999.99",
        items=[
            line(),
            line(sku='caf\u00e9 \N{GRINNING FACE} \\ "', quantity=2**63 - 1, unitPrice="0.000"),
            line(unitPrice=Verbatim("1.5e2"), colour={"deep": [[[{CANARY: None}]]]}),
        ],
        note={"a": [1, True, None, {"b": "c"}], CANARY: Verbatim("-1.5E-7")},
    )
    small = {
        "orderId": "a",
        "userId": "b",
        "totalAmount": Verbatim("1"),
        "idempotencyKey": "c",
        "items": [],
    }
    deep = series.order(note=Verbatim("[" * 30 + "]" * 30))
    spread = json.dumps(json.loads(body_of(series.order())), indent=1).encode()
    return (body_of(plain), body_of(rich), body_of(small), body_of(deep), spread)


BASES = _bases()
VALUES = tuple(
    map(
        Verbatim,
        (
            *("null", "true", "0", "-0", "1", "-1", "0.1", "1.0", "99.999", "1e2", "1e400", "1E-2"),
            *("99999999.99", "100000000", "9223372036854775807", "9223372036854775808", "01", "+1"),
            *("1e99999999999999999999", "0e99999999999999999999", "NaN", "Infinity", ".5", "0x1"),
            *('""', '" "', '"a"', '"1"', '"0.10"', '"1e2"', '"-0"', '"1_000"', '"\u0661"', '"\\n"'),
            *('"\\u0000"', '"\\ud800"', '"\\ud83d\\ude00"', '"\u00e9"', "[]", "{}", "[[]]", "[1]"),
            *('"' + "a" * 255 + '"', '"' + "a" * 256 + '"', "[" * 31 + "]" * 31, '{"a":1,"a":2}'),
            *(
                '{"sku":"a","quantity":1,"unitPrice":1}',
                "7" * 5000,
                "0." + "0" * 300 + "1",
                "undefined",
            ),
        ),
    )
)
NAMES = (
    *(
        "orderId",
        "userId",
        "totalAmount",
        "idempotencyKey",
        "items",
        "sku",
        "quantity",
        "unitPrice",
    ),
    *("order_id", "OrderId", "", "\u0000", "caf\u00e9", CANARY, "__proto__", "items "),
)
TOKENS = (
    *(b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"null", b"NaN", b"-", b"0", b"e400", b"."),
    *(
        b'"orderId":',
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\x00",
        b"\n",
        b"\\u0041",
    ),
    *(b"\\ud800", b"[" * 33, b'"a":{' * 33, b"9" * 400, b" " * 50, b'\\"', b"//", b"\xe2\x80\xa8"),
)


def edited(body: bytes, edit: Edit) -> bytes:
    """The body, changed once: one time in four its bytes, else the JSON in it, where there is."""
    group, number = edit.kind % 4, edit.kind // 4
    if group:
        try:
            tree = json.loads(
                body, object_pairs_hook=Pairs, parse_float=Verbatim, parse_int=Verbatim
            )
        except (ValueError, RecursionError):
            pass
        else:
            change = TREE_EDITS[number % len(TREE_EDITS)]
            changed = text_of(change(tree, edit.where, edit.what))
            return changed.encode("utf-8", "surrogatepass")
    return BYTE_EDITS[number % len(BYTE_EDITS)](body, edit.where, edit.what)


# Of bytes.


def _flip(body: bytes, where: int, what: int) -> bytes:
    place = where % max(len(body), 1)
    return (
        body[:place]
        + bytes(each ^ (1 << what % 8) for each in body[place : place + 1])
        + body[place + 1 :]
    )


def _set(body: bytes, where: int, what: int) -> bytes:
    place = where % max(len(body), 1)
    return body[:place] + bytes([what % 256]) + body[place + 1 :]


def _insert(body: bytes, where: int, what: int) -> bytes:
    place = where % (len(body) + 1)
    return body[:place] + TOKENS[what % len(TOKENS)] + body[place:]


def _cut(body: bytes, where: int, what: int) -> bytes:
    place = where % max(len(body), 1)
    return body[:place] + body[place + 1 + what % 16 :]


def _truncate(body: bytes, where: int, _: int) -> bytes:
    return body[: where % max(len(body), 1)]


def _repeat(body: bytes, where: int, what: int) -> bytes:
    place = where % max(len(body), 1)
    part = body[place : place + 1 + what % 64]
    return body[:place] + part + body[place:]


def _splice(body: bytes, where: int, what: int) -> bytes:
    other = BASES[what % len(BASES)]
    return body[: where % (len(body) + 1)] + other[where * 31 % (len(other) + 1) :]


BYTE_EDITS: tuple[Callable[[bytes, int, int], bytes], ...] = (
    *(_flip, _set, _insert, _cut, _truncate, _repeat, _splice),
)


# Of JSON: each takes a tree of lists, Pairs and leaves, which it may change, and returns one.

Place = tuple[Any, int]


def _places(tree: Any) -> list[Place]:
    """Everything that stands in an array or an object: the container and its index there."""
    found: list[Place] = []
    ahead = [tree]
    while ahead:
        container = ahead.pop()
        for index, each in enumerate(container):
            found.append((container, index))
            value = each[1] if isinstance(container, Pairs) else each
            if isinstance(value, list):
                ahead.append(value)
    return found


def _at(tree: Any, where: int) -> Place | None:
    places = _places(tree) if isinstance(tree, list) else []
    return places[where % len(places)] if places else None


def _put(place: Place, value: Any) -> None:
    container, index = place
    container[index] = (container[index][0], value) if isinstance(container, Pairs) else value


def _get(place: Place) -> Any:
    container, index = place
    return container[index][1] if isinstance(container, Pairs) else container[index]


def _replace(tree: Any, where: int, what: int) -> Any:
    value = VALUES[what % len(VALUES)]
    place = _at(tree, where)
    if place is None:
        return value
    _put(place, value)
    return tree


def _remove(tree: Any, where: int, _: int) -> Any:
    if place := _at(tree, where):
        del place[0][place[1]]
    return tree


def _double(tree: Any, where: int, _: int) -> Any:
    if place := _at(tree, where):
        place[0].insert(place[1], place[0][place[1]])
    return tree


def _rename(tree: Any, where: int, what: int) -> Any:
    place = _at(tree, where)
    if place and isinstance(place[0], Pairs):
        place[0][place[1]] = (NAMES[what % len(NAMES)], _get(place))
    return tree


def _add(tree: Any, where: int, what: int) -> Any:
    place = _at(tree, where)
    if place and isinstance(place[0], Pairs):
        value = VALUES[what // len(NAMES) % len(VALUES)]
        place[0].insert(place[1], (NAMES[what % len(NAMES)], value))
    return tree


def _wrap(tree: Any, where: int, what: int) -> Any:
    place = _at(tree, where)
    value = tree if place is None else _get(place)
    for level in range(1 + what % 34):
        value = [value] if (what >> 6) + level & 1 else Pairs([(CANARY, value)])
    if place is None:
        return value
    _put(place, value)
    return tree


def _reverse(tree: Any, where: int, _: int) -> Any:
    if place := _at(tree, where):
        place[0].reverse()
    return tree


def _as_text(tree: Any, where: int, _: int) -> Any:
    """A number as a text, and a text of digits as a number."""
    if place := _at(tree, where):
        value = _get(place)
        if isinstance(value, Verbatim):
            _put(place, str(value))
        elif isinstance(value, str):
            _put(place, Verbatim(value or "0"))
    return tree


def _shift(tree: Any, where: int, what: int) -> Any:
    """A number with another exponent, more digits or another sign."""
    if place := _at(tree, where):
        value = _get(place)
        if isinstance(value, Verbatim):
            other = (f"{value}e{what % 9 - 4}", f"{value}{what % 1000}", f"-{value}", f"{value}.00")
            _put(place, Verbatim(other[what % 4]))
    return tree


TREE_EDITS: tuple[Callable[[Any, int, int], Any], ...] = (
    *(_replace, _remove, _double, _rename, _add, _wrap, _reverse, _as_text, _shift),
)
