"""Messages that meet an order that is there already, and messages that only look as if they did."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.faults.corpus.case import CANARY, ID_CONFLICT, KEY_CONFLICT, Case
from tests.faults.corpus.series import Fields, Pairs, Series, Verbatim, body_of, line, named

LINES = [line(), line(sku="B", quantity=1, unitPrice="0.50")]
HOW_MANY = 60

OTHER_CONTENT: dict[str, Fields] = {
    "another user": {"userId": f"v-{CANARY}"},
    "the user in capitals": {"userId": f"U-{CANARY}"},
    "a cent more": {"totalAmount": "99.91"},
    "ten times as much": {"totalAmount": "999.00"},
    "another order id": {"orderId": f"second-{CANARY}"},
    "the order id in small letters": {"orderId": f"first-{CANARY}-6"},
    "an order id of another order": {"orderId": f"First-{CANARY}-0"},
    "no lines": {"items": []},
    "one line less": {"items": LINES[:1]},
    "one line twice": {"items": [*LINES, LINES[0]]},
    "lines in another order": {"items": LINES[::-1]},
    "another sku": {"items": [line(sku="C"), LINES[1]]},
    "a sku in small letters": {"items": [LINES[0], LINES[1] | {"sku": "b"}]},
    "a sku with a blank": {"items": [LINES[0], LINES[1] | {"sku": "B "}]},
    "another quantity": {"items": [line(quantity=3), LINES[1]]},
    "another price": {"items": [line(unitPrice="6.170001"), LINES[1]]},
    "a free line": {"items": [line(unitPrice="0"), LINES[1]]},
}


def beginnings() -> Iterator[Case]:
    """The orders that have to be there."""
    series = Series("beginning")
    for number in range(HOW_MANY):
        yield series.stored(f"order {number}", _first(number))


def _first(number: int, **changes: Any) -> Fields:
    return {
        "orderId": f"First-{CANARY}-{number}",
        "userId": f"u-{CANARY}",
        "totalAmount": "99.90",
        "idempotencyKey": f"Key-{CANARY}-{number}",
        "items": LINES,
    } | changes


def _shuffled(fields: Fields) -> Pairs:
    return Pairs(reversed(fields.items()))


@named("the same order again")
def again(series: Series) -> Iterator[Case]:
    fields = _first(0)
    for what, body in {
        "fields in another order": body_of(_shuffled(fields)),
        "lines' fields in another order": body_of(fields | {"items": [*map(_shuffled, LINES)]}),
        "amount as a number": body_of(fields | {"totalAmount": Verbatim("99.90")}),
        "amount without its zero": body_of(fields | {"totalAmount": Verbatim("99.9")}),
        "amount as a text without its zero": body_of(fields | {"totalAmount": "99.9"}),
        "amount with more zeros": body_of(fields | {"totalAmount": "99.9000000000"}),
        "amount with an exponent": body_of(fields | {"totalAmount": Verbatim("999e-1")}),
        "price as a number": body_of(
            fields | {"items": [line(unitPrice=Verbatim("6.170")), *LINES[1:]]}
        ),
        "price with an exponent": body_of(
            fields | {"items": [line(unitPrice=Verbatim("0.617E1")), *LINES[1:]]}
        ),
        "more fields": body_of(fields | {CANARY: CANARY}),
        "more fields in a line": body_of(fields | {"items": [line(colour=CANARY), *LINES[1:]]}),
        "blanks": b" \n" + body_of(fields) + b"\t",
        "a name with escapes": body_of(fields).replace(b'"items"', rb'"\u0069tems"'),
        "an id with escapes": body_of(fields).replace(b'"First', rb'"\u0046irst'),
    }.items():
        yield series.repeated(what, fields, body)
    for number in range(HOW_MANY):
        yield series.repeated(f"order {number}", _first(number), body_of(_first(number, n=number)))


@named("the same key, another content")
def another_content(series: Series) -> Iterator[Case]:
    for number, (what, change) in enumerate(OTHER_CONTENT.items()):
        for extra in (0, 20):
            fields = _first(number + extra, **change)
            # An id that is another order's must not be taken for that order's conflict.
            order_id = fields["orderId"]
            body = body_of(fields | {"note": extra})
            yield series.dead(f"{what}, {extra}", body, KEY_CONFLICT, order_id)


@named("an order id that is taken")
def taken(series: Series) -> Iterator[Case]:
    for number in range(20):
        fields = _first(number, idempotencyKey=f"Other-{CANARY}-{number}")
        yield series.dead(f"order {number}", body_of(fields), ID_CONFLICT, fields["orderId"])
    for number in range(20, 40):
        fields = _first(number, idempotencyKey=f"key-{CANARY}-{number}", userId="another")
        order_id = fields["orderId"]
        yield series.dead(
            f"the key in small letters, {number}", body_of(fields), ID_CONFLICT, order_id
        )


@named("ids that differ in case alone")
def case_variants(series: Series) -> Iterator[Case]:
    for number in range(40, 50):
        own, key = _first(number)["orderId"], _first(number)["idempotencyKey"]
        for what, order_id, other in (
            ("small letters", own.lower(), key.lower()),
            ("capitals", own.upper(), key.upper()),
            ("swapped", own.swapcase(), key.swapcase()),
        ):
            fields = _first(number, orderId=order_id, idempotencyKey=other)
            yield series.stored(f"{what} of {number}", fields)


@named("ids that are only alike")
def alike(series: Series) -> Iterator[Case]:
    for number in range(50, 55):
        own, key = _first(number)["orderId"], _first(number)["idempotencyKey"]
        for change in ("{}.", ".{}", "{}0", "{}-", "{}_", "{}%", "{}'", "{}\\", "{}#", "0{}"):
            fields = _first(number, orderId=change.format(own), idempotencyKey=change.format(key))
            yield series.stored(f"{change} of {number}", fields)
    own = _first(55)
    for what, name in (("the key of one is the id of another", own["orderId"]),):
        fields = series.order(orderId=own["idempotencyKey"], idempotencyKey=name)
        yield series.stored(what, fields)
    same = f"same-{CANARY}"
    yield series.stored(
        "id, user and key alike", series.order(orderId=same, userId=same, idempotencyKey=same)
    )


@named("a taken id with a blank or an accent")
def blanks(series: Series) -> Iterator[Case]:
    """Equal to the taken one for a database that pads or folds; no identifier for us."""
    for number in range(56, 60):
        own, key = _first(number)["orderId"], _first(number)["idempotencyKey"]
        for change in ("{} ", " {}", "{}\n", "{}\x00", "{}\u0301", "{}\u200b", "\uff26{}"):
            fields = _first(number, idempotencyKey=change.format(key))
            yield series.no_order(f"{change!a} as key of {number}", fields)
            fields = _first(number, orderId=change.format(own))
            yield series.no_order(f"{change!a} as id of {number}", fields, "UNKNOWN")
