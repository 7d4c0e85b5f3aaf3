"""Numbers: those that JSON does not have, huge ones, and odd spellings of good ones."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.corpus.case import CANARY_DIGITS, Case
from tests.faults.corpus.series import Series, Verbatim, line, named, text_of

D = CANARY_DIGITS
NO_JSON = (
    *("NaN", "Infinity", "-Infinity", "nan", "inf", "-inf", "-NaN", "+Infinity", "INF", "1.#INF"),
    *("+1", f"+{D}", "--1", "- 1", "-", "+", "01", "00", "-01", f"0{D}", "00.1", "-00.5"),
    *(".5", "-.5", "5.", "5.e1", "1e", "1e+", "1e-", "1e1.5", "1E 5", "e5", "1ee5", "1.2.3"),
    *("0x1F", "0X1f", "0b101", "0o17", "1h", "#1", "1f", "1d", "1L", "1n", "1m", "1u", "12.34M"),
    *("1_000", "1_000.00", "1,000", "1'000", "1 000", "1.000,00", "1;5", "1/2", "50%", "1/0"),
    *("$1", "1$", "\u20ac1", "1\u20ac", "USD 1", "~1", "1..2", "1**2", "(1)", "1-", "1+1"),
    *("\u0661\u0662", "\u06f5", "\uff11\uff12", "\u0967", "\u00b2", "\u00bd", "\u2460", "\u4e00"),
    *("\u22121", "\u2013" + "1", "\u221e", "1\u00a0000", "1\u2009000", "1\u066b5"),
)
FIELDS = ("totalAmount", "quantity", "note")


def with_number(series: Series, field: str, text: str) -> dict[str, object]:
    """An order with this text as a number somewhere."""
    written = Verbatim(text)
    if field in {"quantity", "unitPrice"}:
        return series.order(items=[line(**{field: written})])
    return series.order(**{field: written})


@named("numbers that JSON does not have")
def no_json(series: Series) -> Iterator[Case]:
    for text in NO_JSON:
        for field in FIELDS:
            body = text_of(with_number(series, field, text))
            yield series.not_json(f"{text} as {field}", body)
    for text in ("NaN", "Infinity", "-Infinity"):
        for frame in ("[%s]", '{"a":{"b":[1,%s]}}', '[[[{"":%s}]]]'):
            body = text_of(with_number(series, "note", frame % text))
            yield series.not_json(f"{text} in {frame}", body)


HUGE = (
    *("1e400", "1E+400", f"{D}e308", f"{D}e1000", "1e999999999", "1e999999999999999999"),
    *(
        "9" * 20,
        "9" * 309,
        "9" * 1000,
        "9" * 4299,
        "9" * 4300,
        "9" * 4301,
        "9" * 5000,
        "1" * 50_000,
    ),
    *(f"{D}." + "9" * 5000, "9" * 5000 + ".5"),
)
TINY = ("1e-400", f"{D}e-1000", "1e-999999999", "0." + "0" * 400 + "1", "0." + "1" * 5000)
BEYOND = ("1e9999999999999999999999", "-1e9999999999999999999999", "1e-9999999999999999999999")


@named("huge numbers")
def huge(series: Series) -> Iterator[Case]:
    for text in HUGE:
        what = f"{text[:24]} of {len(text)} characters"
        for field in ("totalAmount", "quantity"):
            yield series.no_order(f"{what} as {field}", with_number(series, field, text))
        for field in ("note", "unitPrice"):
            yield series.stored(f"{what} as {field}", with_number(series, field, text))
        yield series.no_order(f"-{what} as unitPrice", with_number(series, "unitPrice", f"-{text}"))
        yield series.stored(f"-{what} as note", with_number(series, "note", f"-{text}"))


@named("tiny numbers")
def tiny(series: Series) -> Iterator[Case]:
    for text in TINY:
        what = f"{text[:24]} of {len(text)} characters"
        for field in ("totalAmount", "quantity"):
            yield series.no_order(f"{what} as {field}", with_number(series, field, text))
        for field in ("note", "unitPrice"):
            yield series.stored(f"{what} as {field}", with_number(series, field, text))


@named("numbers beyond what anybody can hold")
def beyond(series: Series) -> Iterator[Case]:
    """The contract has no word on them: refused as an amount, ignored where nobody reads them."""
    for text in BEYOND:
        for field in ("totalAmount", "quantity", "unitPrice"):
            yield series.no_order(f"{text} as {field}", with_number(series, field, text))
        yield series.stored(f"{text} as note", with_number(series, "note", text))
        yield series.stored(f"[{text}] as note", with_number(series, "note", f"[{text}]"))


@named("spellings of a good number")
def spellings(series: Series) -> Iterator[Case]:
    for text in (
        *("1", "1.0", "1.00", "1e0", "1E0", "1e+0", "1e-0", "1e00", "10e-1", "0.1e1", "100e-2"),
        *("1e2", "1E2", "1e+2", "1e02", "12.34e0", "1234e-2", "0.1234e2", "0.01234e+3", "1.5e3"),
        *("0.1e0", "0.01e0", "1e-2", "1e-1", "99999999.99e0", "9999999999e-2", "9.999999999e7"),
        *("1e7", "0.000001e7", "1000000000000e-12", "0.10", "0.1000", "5.0000000000000000000000"),
        *(f"1{'0' * 5000}e-5000", f"0.{'0' * 5000}1e5001", f"7.{'0' * 50_000}"),
    ):
        yield series.stored(f"{text[:24]} as totalAmount", with_number(series, "totalAmount", text))
        yield series.stored(f"{text[:24]} as unitPrice", with_number(series, "unitPrice", text))


@named("quantities")
def quantities(series: Series) -> Iterator[Case]:
    for good in (1, 2, 99, 2**31 - 1, 2**31, 2**32, 2**53, 2**53 + 1, 2**63 - 1, 10**18):
        yield series.stored(f"{good}", series.order(items=[line(quantity=good)]))
    for text in ("1.0", "1e0", "1e2", "2.0000", "20E-1", "9223372036854775807.0", "1e18"):
        yield series.stored(text, series.order(items=[line(quantity=Verbatim(text))]))
    for text in (
        *("0", "-0", "-0.0", "-1", f"-{D}", "1.5", "1E-1", "0.5", "1.0000000000000000001"),
        *("9223372036854775807.5", "9223372036854775808.0", "1e19", "1e999999"),
        *(str(2**63), str(2**64), str(10**19), str(-(2**63)), "null", "true", "false", '"1"'),
        *('""', f'"{D}"', "[]", "[1]", "{}", '{"value":1}', '"1.0"', '" 1"', '"\u0661"'),
    ):
        yield series.no_order(text, series.order(items=[line(quantity=Verbatim(text))]))
