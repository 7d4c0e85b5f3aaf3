"""Identifiers: 1 to 255 printable ASCII characters, no spaces, kept byte for byte."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.corpus.case import CANARY, UNKNOWN, Case
from tests.faults.corpus.series import Fields, Series, Verbatim, named

IDENTIFIERS = ("orderId", "userId", "idempotencyKey")
PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
BLANKS = {
    "a space": " ",
    "a tab": "\t",
    "a line feed": "\n",
    "a carriage return": "\r",
    "a line break": "\r\n",
    "a vertical tab": "\x0b",
    "a form feed": "\x0c",
    "a next line": "\x85",
    "a no-break space": "\xa0",
    "an em space": "\u2003",
    "a line separator": "\u2028",
    "an ideographic space": "\u3000",
    "a zero-width space": "\u200b",
    "a byte order mark": "\ufeff",
}
BEYOND_ASCII = {
    "an accent": "\u00e9",
    "a combining accent": "e\u0301",
    "a Cyrillic a": "\u0430",
    "a Greek omicron": "\u03bf",
    "a full-width A": "\uff21",
    "an Arabic digit": "\u0661",
    "a Kelvin sign": "\u212a",
    "a dotted capital I": "\u0130",
    "a dotless i": "\u0131",
    "a long s": "\u017f",
    "a sharp s": "\u00df",
    "a ligature": "\ufb01",
    "a soft hyphen": "\u00ad",
    "a no-break hyphen": "\u2011",
    "a right-to-left override": "\u202e",
    "a zero-width joiner": "\u200d",
    "a variation selector": "a\ufe0f",
    "a tag character": "\U000e0041",
    "an emoji": "\N{GRINNING FACE}",
    "a private character": "\ue000",
    "a noncharacter": "\uffff",
    "a replacement character": "\ufffd",
}
NO_TEXT = (
    *("null", "true", "false", "0", "7356412908", "-1", "1.5", "1e400", "[]", "{}"),
    *(f'["{CANARY}"]', f'{{"id":"{CANARY}"}}', f'{{"{CANARY}":null}}', "[null]", "[[]]"),
)


def refused_name(series: Series, what: str, field: str, value: object) -> Case:
    fields: Fields = series.order(**{field: value})
    order_id = UNKNOWN if field == "orderId" else None
    return series.no_order(f"{what} in {field}", fields, order_id)


@named("identifiers of good characters")
def printable(series: Series) -> Iterator[Case]:
    for character in PRINTABLE:
        for field in ("orderId", "idempotencyKey"):
            fields = series.order()
            fields[field] = f"{character}{fields[field]}{character}"
            yield series.stored(f"{character} around {field}", fields)
    for character in PRINTABLE[::4]:
        yield series.stored(f"only {character} as userId", series.order(userId=character))
    fields = series.order(userId=PRINTABLE)
    yield series.stored("all of them as userId", fields)


@named("identifiers of odd meaning")
def odd_meaning(series: Series) -> Iterator[Case]:
    for name in (
        *("UNKNOWN", "null", "None", "undefined", "true", "0", "-1", "NaN", "[]", "{}", '""', "''"),
        *("__proto__", "constructor", "order", "*", "#", ".", "..", "/", "\\", "%", "%00", "\\0"),
        *("\\x00", "\\u0000", "2026-02-30T25:61:61Z", "0x1F", "1e400", "00", "trial", "CON", "$"),
    ):
        yield series.stored(f"{name} as orderId", series.order(orderId=name))
        yield series.stored(f"{name} as userId", series.order(userId=name))
        yield series.stored(f"{name} as key", series.order(idempotencyKey=name))


@named("lengths of identifiers")
def lengths(series: Series) -> Iterator[Case]:
    for field in IDENTIFIERS:
        for length in (2, 36, 128, 191, 192, 254, 255):
            fields = series.order()
            fields[field] = f"{length}{field[0]}".ljust(length, "-")
            yield series.stored(f"{length} characters in {field}", fields)
        for length in (0, 256, 257, 500, 1000, 65_535, 65_536, 200_000):
            value = (CANARY * 20_000)[:length]
            yield refused_name(series, f"{length} characters", field, value)
        yield refused_name(series, "255 characters in 510 bytes", field, "\u00e9" * 255)
        yield refused_name(series, "128 characters in 256 bytes", field, "\u00e9" * 128)


@named("identifiers with blanks")
def with_blanks(series: Series) -> Iterator[Case]:
    for field in IDENTIFIERS:
        for what, blank in BLANKS.items():
            yield refused_name(series, f"{what} before", field, blank + CANARY)
            yield refused_name(series, f"{what} within", field, f"{CANARY}{blank}{CANARY}")
            yield refused_name(series, f"{what} behind", field, CANARY + blank)
        yield refused_name(series, "only a space", field, " ")


@named("identifiers with control characters")
def with_controls(series: Series) -> Iterator[Case]:
    for code in (*range(0x20), 0x7F, *range(0x80, 0xA0, 4)):
        if chr(code) in "\t\n\x0b\x0c\r\x85":
            continue
        for field in IDENTIFIERS:
            value = Verbatim(f'"{CANARY}\\u{code:04x}"')
            yield refused_name(series, f"U+{code:04X}", field, value)


@named("identifiers beyond ASCII")
def beyond_ascii(series: Series) -> Iterator[Case]:
    for what, character in BEYOND_ASCII.items():
        for field in IDENTIFIERS:
            yield refused_name(series, what, field, CANARY + character)


@named("identifiers that are no text")
def no_text(series: Series) -> Iterator[Case]:
    for text in NO_TEXT:
        for field in IDENTIFIERS:
            yield refused_name(series, text, field, Verbatim(text))
