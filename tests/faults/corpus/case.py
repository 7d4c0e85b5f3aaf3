"""One message of the corpus, and what has to become of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

# Every message carries these in its values, in the names of fields that nobody knows and in its
# headers. Nothing that the service says may contain one.
CANARY = "c4naryX7f3a"
CANARY_DIGITS = "7356412908"

INVALID_JSON = "INVALID_JSON"
INVALID_PAYLOAD = "INVALID_PAYLOAD"
TOO_LARGE = "PAYLOAD_TOO_LARGE"
UNSUPPORTED = "UNSUPPORTED_ENCODING"
OTHER_TYPE = "UNSUPPORTED_TYPE"
KEY_CONFLICT = "IDEMPOTENCY_CONFLICT"
ID_CONFLICT = "ORDER_ID_CONFLICT"
UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of an order, as it has to be stored."""

    sku: str
    quantity: int
    unit_price: Decimal


@dataclass(frozen=True, slots=True)
class Stored:
    """It is an order: this one, field by field."""

    order_id: str
    user_id: str
    total_amount: Decimal
    idempotency_key: str
    items: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Repeated:
    """It has no effect: its order is there already."""


@dataclass(frozen=True, slots=True)
class Dead:
    """It is a dead letter, with this reason; `order_id` as its OrderFailed says it."""

    reason: str
    order_id: str = UNKNOWN


Expected = Stored | Repeated | Dead


@dataclass(frozen=True, slots=True)
class Case:
    """One message. No two of a corpus have the same body."""

    kind: str
    what: str
    body: bytes
    expected: Expected
    properties: Mapping[str, bytes]
    """By name, each as it stands in the content header."""
    correlation: str | None = None
    """What its event has to carry; None where the message says nothing that is readable."""
    headers_kept: bool = True
    """Whether its dead letter's copy has to carry all of its headers."""
    may_be_refused: bool = False
    """Whether some brokers do not take it from its sender."""

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}"
