"""The fingerprint of an order: equal for equal content, however it was written."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from functools import lru_cache

from pydantic_core import to_json

from order_contracts import OrderCreated

MAX_REMEMBERED = 16


def fingerprint(order: OrderCreated) -> bytes:
    """SHA-256 of the order's content: 32 bytes, equal for equal orders however they were written.

    Field order, unknown fields and trailing zeros do not count; everything else does.
    """
    canonical = [
        order.order_id,
        order.user_id,
        canonical_decimal(order.total_amount),
        [[item.sku, item.quantity, canonical_decimal(item.unit_price)] for item in order.items],
    ]
    return hashlib.sha256(to_json(canonical)).digest()


def canonical_decimal(value: Decimal) -> str:
    """One text for one number, exact at any length.

    99.9, 99.90 and 999E-1 are all `999e-1`; 0, 0.00 and -0 are all `0`.
    """
    text = str(value)
    # Prices come again and again. Not the long ones: nobody shall fill our memory with digits.
    return _remembered(text) if len(text) <= MAX_REMEMBERED else _canonical(text)


def _canonical(text: str) -> str:
    mantissa, _, exponent = text.partition("E")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    digits = (whole + fraction).lstrip("0")
    stripped = digits.rstrip("0")
    if not stripped:
        return "0"
    shift = int(exponent or 0) - len(fraction) + len(digits) - len(stripped)
    return f"{sign}{stripped}e{shift}"


_remembered = lru_cache(maxsize=4096)(_canonical)
