"""What the contract says of a body: a second reading of it, written without the service's code.

Python's own json with strict hooks, numbers as the texts they are, and rules by whole-number
arithmetic on their digits. The service reads numbers as Decimal and checks by Pydantic; where both
agree, neither has followed the other.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NoReturn

from tests.faults.corpus.case import (
    INVALID_JSON,
    INVALID_PAYLOAD,
    TOO_LARGE,
    UNKNOWN,
    UNSUPPORTED,
    Dead,
    Line,
    Stored,
)

MAX_BODY = 262_144
MAX_DEPTH = 32
MAX_ITEMS = 5000
PLAIN_ENCODINGS = {"identity", "utf-8", "utf8"}
MAX_QUANTITY = 9_223_372_036_854_775_807
WHOLE_DIGITS, DECIMALS = 8, 2  # 99999999.99
# Beyond this nobody holds a number exactly, and the contract has no word on it.
HOLDABLE_EXPONENT = 10**17

IDENTIFIER = re.compile(r"[\x21-\x7e]{1,255}")
PLAIN = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.([0-9]+))?")
NUMBER = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([-+]?[0-9]+))?")
STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
SURROGATE = re.compile("[\ud800-\udfff]")


class Number(str):
    """A JSON number: its text."""

    __slots__ = ()


class NotStrict(Exception):  # noqa: N818 - what a body is
    """No strict JSON."""


class NoOrder(Exception):  # noqa: N818 - what a body is
    """Strict JSON that breaks a rule."""


class Silent(Exception):  # noqa: N818 - what the contract is
    """The contract does not say what becomes of it: an order or a refusal, both will do."""


@dataclass(frozen=True, slots=True)
class Exact:
    """sign * digits * 10**exponent, with no zero at the end of the digits. Zero has no digits."""

    negative: bool
    digits: str
    exponent: int

    def decimal(self) -> Decimal:
        digits = tuple(map(int, self.digits)) or (0,)
        return Decimal((int(self.negative), digits, self.exponent))


def verdict(body: bytes, content_encoding: str | None = None) -> Stored | Dead | None:
    """What has to become of it as a new message; None where the contract does not say."""
    if content_encoding and content_encoding.lower() not in PLAIN_ENCODINGS:
        return Dead(UNSUPPORTED)
    if len(body) > MAX_BODY:
        return Dead(TOO_LARGE)
    try:
        value = _strict_json(body)
    except NotStrict:
        return Dead(INVALID_JSON)
    try:
        return _order(value)
    except NoOrder:
        return Dead(INVALID_PAYLOAD, _readable_id(value))
    except Silent:
        return None


def _strict_json(body: bytes) -> Any:
    try:
        text = body.decode("utf-8", "strict")
        value = json.loads(
            text,
            parse_float=Number,
            parse_int=Number,
            parse_constant=_no_constant,
            object_pairs_hook=_object,
        )
    except (ValueError, RecursionError) as error:
        raise NotStrict from error
    if _depth(text) > MAX_DEPTH or _has_surrogate(value):
        raise NotStrict
    return value


def _no_constant(_: str) -> NoReturn:
    raise NotStrict


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    if sorted(set(names)) != sorted(names):
        raise NotStrict
    return dict(pairs)


def _depth(text: str) -> int:
    """The most brackets and braces that are open at once."""
    deepest = level = 0
    for character in STRING.sub("", text):
        if character in "[{":
            level += 1
            deepest = max(deepest, level)
        elif character in "]}":
            level -= 1
    return deepest


def _has_surrogate(value: Any) -> bool:
    match value:
        case str():
            return SURROGATE.search(value) is not None
        case list():
            return any(map(_has_surrogate, value))
        case dict():
            return any(_has_surrogate(part) for pair in value.items() for part in pair)
        case _:
            return False


def _order(value: Any) -> Stored:
    """Every rule is tried: what breaks one is no order, whatever the contract leaves open."""
    if not isinstance(value, dict):
        raise NoOrder
    order_id, user_id, key = (
        _identifier(value.get(name)) for name in ("orderId", "userId", "idempotencyKey")
    )
    total = _amount(value.get("totalAmount"))
    whole = len(total.digits) + total.exponent
    if total.negative or not total.digits or whole > WHOLE_DIGITS or -total.exponent > DECIMALS:
        raise NoOrder
    items = value.get("items")
    if not isinstance(items, list) or len(items) > MAX_ITEMS:
        raise NoOrder
    silent = False
    lines = []
    for each in items:
        try:
            lines.append(_line(each))
        except Silent:
            silent = True
    if silent:
        raise Silent
    return Stored(order_id, user_id, total.decimal(), key, tuple(lines))


def _line(value: Any) -> Line:
    if not isinstance(value, dict):
        raise NoOrder
    sku, quantity = value.get("sku"), value.get("quantity")
    if not isinstance(sku, str) or isinstance(sku, Number):
        raise NoOrder
    price = _amount(value.get("unitPrice"))
    if price.negative and price.digits:
        raise NoOrder
    if not isinstance(quantity, Number):
        raise NoOrder
    count = _amount(quantity)
    whole = len(count.digits) + count.exponent
    if count.negative or not count.digits or count.exponent < 0 or whole > len(str(MAX_QUANTITY)):
        raise NoOrder
    if int(count.decimal()) > MAX_QUANTITY:
        raise NoOrder
    if abs(price.exponent) > HOLDABLE_EXPONENT:
        raise Silent
    return Line(sku, int(count.decimal()), price.decimal())


def _identifier(value: Any) -> str:
    if isinstance(value, str) and not isinstance(value, Number) and IDENTIFIER.fullmatch(value):
        return value
    raise NoOrder


def _amount(value: Any) -> Exact:
    if not isinstance(value, str):
        raise NoOrder
    found = (NUMBER if isinstance(value, Number) else PLAIN).fullmatch(value)
    if found is None:
        raise NoOrder
    sign, whole, fraction = found[1], found[2], found[3] or ""
    exponent = _exponent(found[4]) if isinstance(value, Number) and found[4] else 0
    digits = (whole + fraction).lstrip("0")
    if sign and not digits and not isinstance(value, Number):
        raise NoOrder  # a text has no sign: "-0" is none
    stripped = digits.rstrip("0")
    shift = exponent - len(fraction) + len(digits) - len(stripped)
    if not stripped and abs(shift) <= HOLDABLE_EXPONENT:
        shift = 0
    return Exact(sign == "-", stripped, shift)


def _exponent(text: str) -> int:
    """The exponent; beyond what anybody holds, some number of its sign that is beyond it too."""
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-").lstrip("0")
    return sign * (int(digits or "0") if len(digits) <= 20 else 10**20)


def _readable_id(value: Any) -> str:
    try:
        return _identifier(value.get("orderId")) if isinstance(value, dict) else UNKNOWN
    except NoOrder:
        return UNKNOWN
