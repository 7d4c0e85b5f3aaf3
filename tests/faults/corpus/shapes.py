"""Fields that are missing, unknown, misnamed or of another type."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

from tests.faults.corpus.case import CANARY, UNKNOWN, Case
from tests.faults.corpus.series import Fields, Series, Verbatim, line, named

FIELDS = ("orderId", "userId", "totalAmount", "idempotencyKey", "items")
LINE_FIELDS = ("sku", "quantity", "unitPrice")
MISNAMED = {
    "orderId": ("OrderId", "orderid", "ORDERID", "order_id", "order-id", "orderId ", " orderId"),
    "userId": ("UserId", "userid", "user_id", "userID", "user.id", "userId\u200b", "\ufeffuserId"),
    "totalAmount": (
        "TotalAmount",
        "totalamount",
        "total_amount",
        "total",
        "amount",
        "totalAmount:",
    ),
    "idempotencyKey": ("IdempotencyKey", "idempotency_key", "key", "idempotencykey", "$key"),
    "items": ("Items", "ITEMS", "item", "lines", "items[]", "items ", "\u0456tems"),
}
DATES = (
    *('"2026-11-23T15:00:00Z"', '"2026-11-23"', '"2026-02-30"', '"2026-13-45T25:61:61Z"', '""'),
    *('"0000-00-00"', '"9999-12-31T23:59:60Z"', '"10000-01-01"', '"-0001-01-01"', '"1/2/2026"'),
    *('"2026-11-23T15:00:00"', '"2026-11-23T15:00:00+99:99"', '"today"', "0", "-1", "1e400"),
    *("1795446000", "1795446000000", "4611686018427387904", "253402300800", "null", "true", "[]"),
    *('{"$date":"2026-11-23"}', f'"{CANARY}"', '"2026-W48-1"', '"P1D"', '"\\u0000"'),
)
UNKNOWN_NAMES = (
    *("", " ", ".", "__proto__", "constructor", "prototype", "toString", "$ref", "$where", "$type"),
    *("@context", "class", "__class__", "self", "order_id", "OrderId", "status", "fingerprint"),
    *("createdAt", "id", "reason", "model_config", "__init__", "\u0000", "\n", "caf\u00e9"),
    *("\N{GRINNING FACE}", "orderId\u0000", "items.0", "items[0]", "'; DROP TABLE orders;--"),
    *(CANARY, CANARY * 2000),
)


@named("missing fields")
def missing(series: Series) -> Iterator[Case]:
    for count in range(1, len(FIELDS) + 1):
        for gone in combinations(FIELDS, count):
            fields = series.order(note=CANARY)
            order_id = UNKNOWN if "orderId" in gone else fields["orderId"]
            rest = {name: value for name, value in fields.items() if name not in gone}
            if len(rest) > 1:
                yield series.no_order(f"without {', '.join(gone)}", rest, order_id)
    for count in (1, 2, 3):
        for gone in combinations(LINE_FIELDS, count):
            rest = {name: value for name, value in line().items() if name not in gone}
            fields = series.order(items=[rest])
            yield series.no_order(f"a line without {', '.join(gone)}", fields)
            fields = series.order(items=[line(), rest])
            yield series.no_order(f"a second line without {', '.join(gone)}", fields)


@named("misnamed fields")
def misnamed(series: Series) -> Iterator[Case]:
    for name, others in MISNAMED.items():
        for other in others:
            fields = series.order()
            order_id = UNKNOWN if name == "orderId" else fields["orderId"]
            fields = {other if each == name else each: fields[each] for each in fields}
            yield series.no_order(f"{other!a} for {name}", fields, order_id)
    for name, other in (("sku", "SKU"), ("quantity", "qty"), ("unitPrice", "unit_price")):
        own = {other if each == name else each: value for each, value in line().items()}
        yield series.no_order(f"{other} for {name}", series.order(items=[own]))


@named("null fields")
def null(series: Series) -> Iterator[Case]:
    for name in FIELDS:
        fields = series.order(**{name: None})
        yield series.no_order(name, fields, UNKNOWN if name == "orderId" else None)
    for name in LINE_FIELDS:
        yield series.no_order(f"{name} of a line", series.order(items=[line(**{name: None})]))
        fields = series.order(items=[line(), line(**{name: None})])
        yield series.no_order(f"{name} of the second line", fields)
    yield series.no_order("all", {"orderId": None, CANARY: None}, UNKNOWN)
    yield series.stored("an unknown one", series.order(note=None))


@named("amounts that are no number")
def no_number(series: Series) -> Iterator[Case]:
    for text in (
        "true",
        "false",
        "[]",
        "[5]",
        '["5"]',
        "{}",
        '{"value":5}',
        f'"{CANARY}"',
        "[[5]]",
    ):
        yield series.no_order(f"{text} as total", series.order(totalAmount=Verbatim(text)))
        fields = series.order(items=[line(unitPrice=Verbatim(text))])
        yield series.no_order(f"{text} as price", fields)


@named("items that are no list of lines")
def no_lines(series: Series) -> Iterator[Case]:
    for text in (
        *(
            '""',
            '"[]"',
            f'"{CANARY}"',
            "0",
            "7356412908",
            "true",
            "{}",
            f'{{"{CANARY}":1}}',
            "[[]]",
        ),
        *('{"0":{"sku":"a","quantity":1,"unitPrice":1}}', "[null]", "[1]", '["a"]', "[true]"),
        *("[{}]", '[{"sku":"a"}]', "[[[[]]]]", '[["sku","quantity"]]', '[{"sku":null}]', "[{},{}]"),
        *('{"sku":"a","quantity":1,"unitPrice":1}', "[7356412908e400]", '[""]'),
    ):
        yield series.no_order(text, series.order(items=Verbatim(text)))
    for sku in ("null", "1", "true", "[]", "{}", f'["{CANARY}"]', "1e400"):
        fields = series.order(items=[line(sku=Verbatim(sku))])
        yield series.no_order(f"{sku} as sku", fields)
    many = [line(quantity=0) for _ in range(2000)]
    yield series.no_order("2,000 lines, each of them wrong", series.order(items=many))
    empty = Verbatim("[" + "{}," * 80_000 + "{}]")
    yield series.no_order("80,001 empty lines", series.order(items=empty))
    for count in (5001, 6000):
        yield series.no_order(f"{count} lines", series.order(items=_short_lines(count)))


def _short_lines(count: int) -> list[Fields]:
    return [line(sku="a", unitPrice=1) for _ in range(count)]


@named("lists of lines")
def lines(series: Series) -> Iterator[Case]:
    for count in (0, 1, 2, 100, 1000, 4000):
        each = [line(sku=str(number)) for number in range(count)]
        yield series.stored(f"{count} lines", series.order(items=each))
    yield series.stored("5000 lines", series.order(items=_short_lines(5000)))
    yield series.stored("the same line twice", series.order(items=[line(), line()]))
    yield series.stored("an empty sku", series.order(items=[line(sku="")]))
    yield series.stored("a blank sku", series.order(items=[line(sku="  ")]))
    yield series.stored("a sku with blanks", series.order(items=[line(sku=f" {CANARY} ")]))
    yield series.stored("a long sku", series.order(items=[line(sku=CANARY * 20_000)]))
    yield series.stored("lines in JSON", series.order(items=[line(sku='[{"sku":1}]')]))


@named("unknown fields")
def unknown(series: Series) -> Iterator[Case]:
    for name in UNKNOWN_NAMES:
        yield series.stored(f"{name[:20]!a}", series.order() | {name: CANARY})
        fields = series.order(items=[line() | {name: {name: [CANARY]}}])
        yield series.stored(f"{name[:20]!a} in a line", fields)
    for count in (10, 1000, 5000):
        more = {f"{CANARY}{number}": number for number in range(count)}
        yield series.stored(f"{count} of them", series.order(**more))
    yield series.stored("an order in the order", series.order(order=series.order()))


@named("dates")
def dates(series: Series) -> Iterator[Case]:
    for text in DATES:
        yield series.stored(f"{text} as createdAt", series.order(createdAt=Verbatim(text)))
    for text in DATES[::3]:
        fields = series.order(totalAmount=Verbatim(text if text != "0" else "-1"))
        if text not in {"1795446000", "253402300800"}:
            yield series.no_order(f"{text} as totalAmount", fields)
