"""Size, depth, names that come twice, and control characters."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.corpus.case import CANARY, TOO_LARGE, Case
from tests.faults.corpus.json_text import PLACES, placed
from tests.faults.corpus.series import Pairs, Series, Verbatim, body_of, line, named, text_of

KIB = 1024
MAX_BODY = 256 * KIB
MAX_STORED = 1024 * KIB


def _filled(series: Series, size: int, **changes: object) -> tuple[dict[str, object], bytes]:
    """An order of exactly so many bytes; what fills it nobody reads."""
    fields = series.order(**changes, note="")
    fields["note"] = (CANARY * (size // len(CANARY)))[: size - len(body_of(fields))]
    body = body_of(fields)
    assert len(body) == size
    return fields, body


@named("sizes up to 256 KiB")
def small_enough(series: Series) -> Iterator[Case]:
    for size in (1000, 64 * KIB, 128 * KIB - 1, 128 * KIB, MAX_BODY - 2, MAX_BODY - 1, MAX_BODY):
        fields, body = _filled(series, size)
        yield series.stored(f"{size} bytes", fields, body)
    fields = series.order()
    body = body_of(fields)
    blanks = b" " * (MAX_BODY - len(body))
    yield series.stored("256 KiB with blanks behind", fields, body + blanks)
    fields = series.order()
    body = body_of(fields)
    blanks = b"\n" * (MAX_BODY - len(body))
    yield series.stored("256 KiB with blanks before", fields, blanks + body)
    fields, body = _filled(series, MAX_BODY, totalAmount=Verbatim("-1"))
    yield series.no_order("256 KiB and no order", fields)
    yield series.not_json("256 KiB and no JSON", _filled(series, MAX_BODY)[1][:-1] + b"]")


@named("sizes over 256 KiB")
def too_large(series: Series) -> Iterator[Case]:
    for size in (MAX_BODY + 1, MAX_BODY + 2, 300_000, 512 * KIB, MAX_STORED - 1, MAX_STORED):
        yield series.dead(f"{size} bytes", _filled(series, size)[1], TOO_LARGE)
    body = body_of(series.order())
    blanks = b" " * (MAX_BODY + 1 - len(body))
    yield series.dead("one blank too many", body + blanks, TOO_LARGE)
    opened = b"[" * (MAX_BODY + 1) + CANARY.encode()
    yield series.dead("brackets", opened, TOO_LARGE)
    yield series.dead("no UTF-8", b"\xff" * (MAX_BODY + 1), TOO_LARGE)
    yield series.dead("zeros", bytes(MAX_BODY + 1), TOO_LARGE)
    quotes = b"'\\\"" * (MAX_STORED // 3)
    yield series.dead("what a statement has to escape", quotes, TOO_LARGE)


@named("sizes over 1 MiB")
def much_too_large(series: Series) -> Iterator[Case]:
    for size in (MAX_STORED + 1, 1_100_000, 2 * MAX_STORED, 5_000_000):
        yield series.dead(f"{size} bytes", _filled(series, size)[1], TOO_LARGE)
    yield series.dead("zeros", bytes(MAX_STORED + 1), TOO_LARGE)
    quotes = b"'\\\"" * (MAX_STORED // 2)
    yield series.dead("what a statement has to escape", quotes, TOO_LARGE)


def _nested(levels: int, form: str) -> str:
    """So many arrays or objects within each other."""
    if form == "arrays":
        return "[" * levels + "]" * levels
    if form == "objects":
        return f'{{"{CANARY}":' * levels + "1" + "}" * levels
    half, odd = divmod(levels, 2)
    return '{"a":[' * half + ("{}" if odd else "") + "]}" * half


FORMS = ("arrays", "objects", "both")


@named("depth up to 32")
def shallow(series: Series) -> Iterator[Case]:
    for form in FORMS:
        for levels in (1, 2, 10, 29, 30, 31):
            fields = series.order(note=Verbatim(_nested(levels, form)))
            yield series.stored(f"{levels} {form} in a field", fields)
        fields = series.order(items=[line(note=Verbatim(_nested(29, form)))])
        yield series.stored(f"29 {form} in a line", fields)
    fields = series.order(note=Verbatim("[" + "[],{}," * 5000 + "[]]"))
    yield series.stored("many beside each other", fields)
    fields = series.order(note="[" * 1000)
    yield series.stored("brackets in a text", fields)
    fields = series.order(note=Verbatim(f'"\\"{"[" * 1000}"'))
    yield series.stored("brackets behind an escaped quote", fields)


@named("depth over 32")
def deep(series: Series) -> Iterator[Case]:
    for form in FORMS:
        for levels in (32, 33, 40, 64, 100, 500, 900, 990, 1000, 1100, 5000, 20_000):
            fields = series.order(note=Verbatim(_nested(levels, form)))
            body = text_of(fields)
            if len(body) <= MAX_BODY:
                yield series.not_json(f"{levels} {form} in a field", body)
        fields = series.order(items=[line(note=Verbatim(_nested(30, form)))])
        yield series.not_json(f"30 {form} in a line", text_of(fields))
        for levels in (33, 34, 900, 15_000):
            yield series.not_json(f"{levels} {form} alone", _nested(levels, form))
    fields = series.order(note=Verbatim(_nested(100_000, "arrays")))
    yield series.not_json("100,000 arrays in a field", text_of(fields))
    yield series.not_json("100,000 arrays that never close", "[" * 100_000)
    yield series.not_json("40,000 objects that never close", '{"a":' * 40_000)
    yield series.not_json("100,000 arrays that never opened", "]" * 100_000)


TWICE = ("orderId", "userId", "totalAmount", "idempotencyKey", "items", "note")


@named("names that come twice")
def twice(series: Series) -> Iterator[Case]:
    for name in TWICE:
        fields = series.order(note=CANARY)
        for what, other in (("the same value", fields[name]), ("null", None), ("another", "1")):
            pairs = Pairs([*fields.items(), (name, other)])
            yield series.not_json(f"{name} with {what} behind", text_of(pairs))
            pairs = Pairs([(name, other), *series.order(note=CANARY).items()])
            yield series.not_json(f"{name} with {what} before", text_of(pairs))
        escaped = Verbatim('"' + "".join(f"\\u{ord(each):04x}" for each in name) + '"')
        pairs = Pairs([*series.order(note=CANARY).items(), (escaped, fields[name])])
        yield series.not_json(f"{name}, once escaped", text_of(pairs))
        pairs = Pairs([(escaped, 1), *series.order(note=CANARY).items()])
        yield series.not_json(f"{name}, first escaped", text_of(pairs))
    for name in ("sku", "quantity", "unitPrice", CANARY):
        pairs = Pairs([*line(**{CANARY: 1}).items(), (name, line().get(name, 1))])
        yield series.not_json(f"{name} in a line", text_of(series.order(items=[pairs])))
    for name in ("", CANARY, "\u00e9", "__proto__", "a" * 5000):
        pairs = Pairs([(name, 1), (name, 1)])
        for what, note in (("", pairs), ("an array", [pairs]), ("objects", {"a": {"b": pairs}})):
            body = text_of(series.order(note=note))
            yield series.not_json(f"{name[:9]!a} in an unknown field {what}", body)
    fields = series.order(items=[line(), Pairs([("sku", "a"), ("sku", "a")])])
    yield series.not_json("sku in the second line", text_of(fields))


@named("names that are only alike")
def alike(series: Series) -> Iterator[Case]:
    for one, other in (
        ("a", "A"),
        ("\u00e9", "e\u0301"),
        ("a", "a "),
        ("a", "\u0430"),
        ("a", "a\u0000"),
        ("", " "),
        ("\u212b", "\u00c5"),
        ("ss", "\u00df"),
        ("1", "01"),
        ("__proto__", "__Proto__"),
    ):
        fields = series.order(note={one: CANARY, other: CANARY})
        yield series.stored(f"{one!a} and {other!a}", fields)
        yield series.stored(f"{one!a} and {other!a} on top", series.order(**{one: 1, other: 2}))
    for other in ("OrderId", "order_id", "orderId ", "Items", "idempotencykey"):
        yield series.stored(f"{other} beside the real one", series.order(**{other: CANARY}))


@named("control characters in a text")
def raw_controls(series: Series) -> Iterator[Case]:
    for code in range(0x20):
        for place in PLACES:
            body = placed(series, place, chr(code))
            yield series.not_json(f"{code:#04x} in {place}", body)


@named("control characters, escaped")
def escaped_controls(series: Series) -> Iterator[Case]:
    for code in (*range(0x20), 0x7F, 0x80, 0x9F):
        fields = series.order(items=[line(sku=f"{CANARY}{chr(code)}")])
        yield series.stored(f"{code:#04x} in a sku", fields)
        note = {f"{CANARY}{chr(code)}": f"{chr(code)}{CANARY}"}
        yield series.stored(f"{code:#04x} in an unknown field", series.order(note=note))
