"""Bytes to strict JSON.

Strict means: UTF-8 without a mark, no duplicate keys, no NaN or Infinity, no lone surrogates, at
most 32 levels, at most 256 KiB. Numbers come out as int or Decimal, exact.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from itertools import chain
from typing import Any, NoReturn

from order_contracts import MAX_BODY_BYTES, MAX_DEPTH, FailureReason
from service.domain.errors import Refusal

# What clients set that compress nothing: Spring AMQP and kombu put the character set there.
PLAIN_ENCODINGS = frozenset({"identity", "utf-8", "utf8"})


def decode(body: bytes, content_encoding: str | None = None) -> Any:
    """The JSON value that `body` holds.

    Raises:
        Refusal: with the reason and a description that quotes nothing of the body.
    """
    if content_encoding and content_encoding.lower() not in PLAIN_ENCODINGS:
        raise Refusal(
            FailureReason.UNSUPPORTED_ENCODING,
            "content-encoding: must be absent, identity or UTF-8; send the JSON as it is",
        )
    if len(body) > MAX_BODY_BYTES:
        raise Refusal(
            FailureReason.PAYLOAD_TOO_LARGE,
            f"body: {len(body)} bytes, at most {MAX_BODY_BYTES} are read",
        )
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        _refuse(f"body: not UTF-8 at byte {error.start}")
    try:
        value = _decode_strictly(text)
    except json.JSONDecodeError as error:
        _refuse(f"body: not JSON at line {error.lineno}, column {error.colno}")
    except RecursionError:
        _refuse(f"body: nested deeper than {MAX_DEPTH} levels")
    many = body.count(b"[") + body.count(b"{") > MAX_DEPTH
    if many and isinstance(value, (dict, list)) and _deeper_than(value, MAX_DEPTH):
        _refuse(f"body: nested deeper than {MAX_DEPTH} levels")
    if b"\\u" in body and _has_lone_surrogate(value):
        _refuse("body: a lone surrogate, which is no Unicode character")
    return value


def _refuse(details: str) -> NoReturn:
    raise Refusal(FailureReason.INVALID_JSON, details) from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        _refuse("body: an object names the same key twice")
    return found


def _no_constant(_: str) -> NoReturn:
    _refuse("body: NaN and Infinity are not JSON")


def _decode_strictly(text: str) -> Any:
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError:
        raise
    except (InvalidOperation, ValueError):
        # A number beyond int's or Decimal's bounds, perhaps in a field that nobody reads.
        return _PATIENT_DECODER.decode(text)


def _any_integer(text: str) -> int | Decimal:
    try:
        return int(text)
    except ValueError:
        return _any_number(text)


def _any_number(text: str) -> Decimal:
    """Exact where Decimal can hold it, else NaN, which no field of the contract takes."""
    try:
        return Decimal(text)
    except InvalidOperation:
        return Decimal("NaN")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys, parse_float=Decimal, parse_constant=_no_constant
)
_PATIENT_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_keys,
    parse_float=_any_number,
    parse_int=_any_integer,
    parse_constant=_no_constant,
)


def _deeper_than(value: Any, levels: int) -> bool:
    """Whether arrays and objects stand within each other more than `levels` deep."""
    # Two kinds of layers: asking each container what it is would cost as much as reading it.
    arrays, objects = _containers([value])
    for _ in range(levels):
        arrays, objects = _containers(
            chain(chain.from_iterable(arrays), chain.from_iterable(map(dict.values, objects)))
        )
        if not arrays and not objects:
            return False
    return True


def _containers(values: Iterable[Any]) -> tuple[list[list[Any]], list[dict[str, Any]]]:
    found = [each for each in values if type(each) in _CONTAINERS]
    objects = [each for each in found if type(each) is dict]
    if len(objects) == len(found):
        return [], objects
    return [each for each in found if type(each) is list] if objects else found, objects


_CONTAINERS = frozenset((list, dict))


def _has_lone_surrogate(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return True
    return False
