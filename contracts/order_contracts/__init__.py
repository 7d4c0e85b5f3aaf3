"""The messages on the wire, in and out: shapes, units and rules, and nothing else.

These models are the contract: `asyncapi.yaml` is generated from them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    PlainSerializer,
    RootModel,
    StrictInt,
    StrictStr,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

MAX_BODY_BYTES = 256 * 1024
MAX_DEPTH = 32
# Validating an item costs far more than reading it: so many bound the cost of a message.
MAX_ITEMS = 5000
# DECIMAL(10,2) in the database.
MAX_TOTAL = Decimal("99999999.99")
MAX_DECIMALS = 2
# The largest integer that a JSON column keeps exactly on every supported database.
MAX_QUANTITY = 2**63 - 1
MAX_QUANTITY_DIGITS = len(str(MAX_QUANTITY))
# Of a signed text the sign is named as the fault, by the bounds; `-0` is within them.
DECIMAL_TEXT = re.compile(r"(-(?=[0.]*[1-9]))?(0|[1-9][0-9]*)(\.[0-9]+)?", re.ASCII)


class FailureReason(StrEnum):
    """Why a message became a dead letter instead of an order.

    - `INVALID_JSON`: the body is not strict UTF-8 JSON, or is nested deeper than 32 levels.
    - `INVALID_PAYLOAD`: JSON, but not an OrderCreated; the details name each field and rule.
    - `PAYLOAD_TOO_LARGE`: the body is over 256 KiB.
    - `UNSUPPORTED_ENCODING`: the message has a content-encoding other than `identity` or UTF-8.
    - `UNSUPPORTED_TYPE`: the message says that it is something else than an OrderCreated.
    - `UNSTORABLE`: a valid order that the database will never take.
    - `IDEMPOTENCY_CONFLICT`: the idempotency key was used before with other content.
    - `ORDER_ID_CONFLICT`: the order id was used before under another idempotency key.
    """

    INVALID_JSON = "INVALID_JSON"
    INVALID_PAYLOAD = "INVALID_PAYLOAD"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"
    UNSUPPORTED_ENCODING = "UNSUPPORTED_ENCODING"
    UNSUPPORTED_TYPE = "UNSUPPORTED_TYPE"
    IDEMPOTENCY_CONFLICT = "IDEMPOTENCY_CONFLICT"
    ORDER_ID_CONFLICT = "ORDER_ID_CONFLICT"
    UNSTORABLE = "UNSTORABLE"


def exact_decimal(value: Any) -> Decimal:
    """A JSON number or a plain decimal string as an exact Decimal; never through a float.

    The codec hands numbers over as int or Decimal, so a float here is somebody's Python literal
    and its shortest text is what was meant.
    """
    if isinstance(value, bool):
        raise PydanticCustomError("decimal_type", "Input should be a number or a decimal string")
    if isinstance(value, Decimal) and value.is_finite():
        return value
    if isinstance(value, int):
        return Decimal(value)
    text = repr(value) if isinstance(value, float) else value
    if isinstance(text, str) and DECIMAL_TEXT.fullmatch(text):
        return Decimal(text)
    raise PydanticCustomError("decimal_type", "Input should be a number or a decimal string")


def exact_integer(value: Any) -> Any:
    """`2.0` and `2e0` are the integer 2, as in JSON Schema; anything else is left as it is."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Decimal) and value.is_finite() and value.adjusted() < MAX_QUANTITY_DIGITS:
        whole = int(value)
        return whole if whole == value else value
    return value


def _at_most_two_decimals(value: Decimal) -> Decimal:
    _, digits, exponent = value.as_tuple()
    surplus = -int(exponent) - MAX_DECIMALS
    if surplus > 0 and any(digits[-surplus:]):
        raise PydanticCustomError("decimal_places", "Input should have at most 2 decimals")
    return value


def _decimal_schema(
    description: str, examples: list[Any], *, pattern: str, never: str, **bounds: Any
) -> WithJsonSchema:
    """`never`: a pattern of what is no such text. Together they need no look-around, which many
    generators of code cannot read, and leave no room for a newline at the end, where `$` does."""
    return WithJsonSchema(
        {
            "description": description,
            "anyOf": [
                {
                    "title": "JSON number",
                    "description": "Read exactly, never rounded.",
                    "type": "number",
                    **bounds,
                },
                {
                    "title": "Decimal string",
                    "description": "No exponent, sign or spaces.",
                    "type": "string",
                    "pattern": pattern,
                    "not": {"pattern": never},
                },
            ],
            "examples": examples,
        }
    )


IDENTIFIER = re.compile(r"[!-~]{1,255}", re.ASCII)
Identifier = Annotated[
    StrictStr,
    Field(
        pattern=f"^{IDENTIFIER.pattern}$",
        max_length=255,
        # `$` lets a newline at the end pass in some languages.
        json_schema_extra={"not": {"pattern": "[^!-~]"}},
    ),
]
TotalAmount = Annotated[
    Decimal,
    Field(gt=0, le=MAX_TOTAL),
    BeforeValidator(lambda value: _at_most_two_decimals(exact_decimal(value))),
    _decimal_schema(
        "What the order costs, in units of its currency: more than 0, at most 99999999.99, "
        "at most 2 decimals and any zeros behind them. A JSON number or a decimal string, kept "
        "exactly. The schema cannot say how many decimals a number has, and a validator that reads "
        "numbers as floating point cannot see the last ones: a string is checked in full.",
        [99.99, "99.90"],
        # 8 digits before the point, 2 after it and any zeros; some digit is another than 0.
        pattern=r"^(0|[1-9][0-9]{0,7})(\.[0-9]{1,2}0*)?$",
        never=r"^[0.]*$|\n",
        exclusiveMinimum=0,
        maximum=99999999.99,
    ),
]
UnitPrice = Annotated[
    Decimal,
    Field(ge=0),
    BeforeValidator(exact_decimal),
    _decimal_schema(
        "Price of one unit, in units of the order's currency: 0 or more. "
        "A JSON number or a decimal string, kept exactly.",
        [2.55, "16.65"],
        pattern=r"^(0|[1-9][0-9]*)(\.[0-9]+)?$",
        never=r"\n",
        minimum=0,
    ),
]


class _Incoming(BaseModel):
    model_config = ConfigDict(
        # By these names alone: `order_id` on the wire is a field the contract does not know.
        alias_generator=to_camel,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )


class OrderItem(_Incoming):
    """One line of an order. Fields the contract does not know are ignored."""

    sku: StrictStr = Field(description="Stock keeping unit: any text.", examples=["85123A"])
    quantity: Annotated[StrictInt, BeforeValidator(exact_integer)] = Field(
        ge=1,
        le=MAX_QUANTITY,
        description="How many units, at least 1. 2.0 is the integer 2.",
        examples=[6],
    )
    unit_price: UnitPrice


def _at_most_max_items(value: Any) -> Any:
    """Before the items are looked at: of too many, none is validated."""
    if isinstance(value, (list, tuple)) and len(value) > MAX_ITEMS:
        raise PydanticCustomError("too_long", f"Array should have at most {MAX_ITEMS} items")
    return value


Items = Annotated[
    tuple[OrderItem, ...],
    FailFast(),
    Field(
        max_length=MAX_ITEMS,
        description="The lines of the order; required, may be empty, at most 5,000.",
    ),
    BeforeValidator(_at_most_max_items),
]


class OrderCreated(_Incoming):
    """An order was placed somewhere; this service is asked to process it, once in effect.

    Identifiers compare byte for byte. Fields the contract does not know are ignored, at any level.
    """

    order_id: Identifier = Field(
        description="Names the order for ever: 1 to 255 printable ASCII characters, no spaces.",
        examples=["order-101"],
    )
    user_id: Identifier = Field(
        description="Who placed it: 1 to 255 printable ASCII characters, no spaces.",
        examples=["user-456"],
    )
    total_amount: TotalAmount
    idempotency_key: Identifier = Field(
        description=(
            "The same key and the same content again has no effect; the same key with other "
            "content is refused. 1 to 255 printable ASCII characters, no spaces."
        ),
        examples=["unique-key-001"],
    )
    items: Items


def _always_there(schema: dict[str, Any]) -> None:
    schema["required"] = list(schema["properties"])


class _Outgoing(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        frozen=True,
        json_schema_extra=_always_there,
    )


def _utc_text(moment: datetime) -> str:
    """2026-01-31T12:00:00.000000Z: UTC, always with microseconds."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


Timestamp = Annotated[
    datetime,
    PlainSerializer(_utc_text, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


class OrderProcessed(_Outgoing):
    """The order is stored; this event is published at least once, with one id for ever."""

    order_id: str = Field(description="The order's own id.", examples=["order-101"])
    idempotency_key: str = Field(
        description="The key the order was accepted under.", examples=["unique-key-001"]
    )
    status: Literal["PROCESSED"] = Field(
        "PROCESSED", description="What became of the order.", examples=["PROCESSED"]
    )
    processing_timestamp: Timestamp = Field(
        description="When it was processed: UTC, RFC 3339, microseconds.",
        examples=["2026-01-31T12:00:00.000000Z"],
    )


class OrderFailed(_Outgoing):
    """A message could not become an order; it was kept as a dead letter with the same reason."""

    order_id: str = Field(
        description="The order's id; UNKNOWN where the message does not say one that is valid.",
        examples=["order-101", "UNKNOWN"],
    )
    reason: FailureReason
    error_details: str = Field(
        description="Names the field and the rule, never the value. At most 1,000 characters.",
        examples=["totalAmount: Input should be greater than 0"],
    )


class DeadLetter(RootModel[bytes]):
    """The original body, byte for byte: often JSON, but whatever was sent."""
