"""The words that a refusal may use: names of fields, rules, positions and lengths."""

from __future__ import annotations

import re

_LINE_FIELD = r"items(?:\[\d+\](?:\.(?:sku|quantity|unitPrice))?)?"
_FIELD = rf"orderId|userId|totalAmount|idempotencyKey|{_LINE_FIELD}"
_RULES = "|".join(
    (
        "Field required",
        "Input should be an object",
        "Input should be an array",
        "Array should have at most 5000 items",
        "Input should be a valid string",
        "Input should be a valid integer",
        "Input should be a number or a decimal string",
        "Input should have at most 2 decimals",
        "Input should be greater than 0",
        r"Input should be greater than or equal to [01]",
        r"Input should be less than or equal to (?:99999999\.99|9223372036854775807)",
        "String should have at most 255 characters",
        re.escape("String should match pattern '^[!-~]{1,255}$'"),
    )
)
_BODY = "|".join(
    (
        "Input should be an object",
        r"not UTF-8 at byte \d+",
        r"not JSON at line \d+, column \d+",
        "nested deeper than 32 levels",
        "an object names the same key twice",
        "a lone surrogate, which is no Unicode character",
        "NaN and Infinity are not JSON",
        r"\d+ bytes, at most 262144 are read",
    )
)
_FAULT = rf"(?:(?:{_FIELD}): (?:{_RULES})|body: (?:{_BODY}))"
_DETAILS = re.compile(
    rf"{_FAULT}(?:; {_FAULT}){{0,4}}(?:; and \d+ more)?"
    "|content-encoding: must be absent, identity or UTF-8; send the JSON as it is"
    r"|(?:type|header [a-z][a-z0-9_:.-]*): must name OrderCreated(?:, or be absent)?",
    re.ASCII,
)


def says_only_rules(details: str) -> bool:
    """Whether an explanation names fields and rules, and nothing that a sender has written."""
    return _DETAILS.fullmatch(details) is not None
