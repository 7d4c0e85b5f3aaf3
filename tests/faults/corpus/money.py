"""Amounts of money: exact where they are valid, refused where they are not."""

from __future__ import annotations

from collections.abc import Iterator

from tests.faults.corpus.case import CANARY_DIGITS, Case
from tests.faults.corpus.series import Series, Verbatim, line, named, text_of

# Most of them are no binary fraction; some lose their last digit as a float of 32 or 64 bits.
TRAPS = (
    *("0.01", "0.02", "0.03", "0.05", "0.06", "0.07", "0.09", "0.1", "0.2", "0.3", "0.30", "0.57"),
    *("0.58", "0.99", "1", "1.1", "1.10", "1.13", "1.15", "2.2", "2.675e2", "4.35", "8.95"),
    *("19.99", "33.33", "64.1", "99.9", "100.1", "128.05", "256.7", "1024.1", "4096.01"),
    *("16777216.01", "16777217", "33333333.33", "33554433.01", "67108865.99", "90071992.54"),
    *("99999999", "99999999.9", "99999999.98", "99999999.99", "12345678.91", "87654321.09"),
)
ZEROS = ("1.000", "99.990", "0.0100", "99999999.9900", "0.10" + "0" * 300, "5." + "0" * 10_000)
SURPLUS = (
    *("0.001", "0.009", "0.005", "0.0049", "1.005", "1.115", "2.675", "99.999", "10.101", "0.011"),
    # What 0.1 + 0.2, 1.1 + 2.2 and 0.7 + 0.1 are as floats.
    *("0.30000000000000004", "3.3000000000000003", "0.7999999999999999", "0.1000000000000000055"),
    *("12.340000000000001", "99999999.991", "99999999.989", "0.010000000000000000208"),
    *(f"1.{CANARY_DIGITS}", "0.99999999999999999999", "1." + "0" * 300 + "1"),
)
NO_MORE_THAN_ZERO = (
    *("0", "0.0", "0.00", "0.000", "-0", "-0.0", "-0.00", "-0.01", "-1", "-99.99", "-99999999.99"),
    *("-100000000", f"-{CANARY_DIGITS}", "-0.001"),
)
TOO_MUCH = (
    *("100000000", "100000000.00", "100000000.01", "99999999.999", "999999999.99", "2147483648"),
    *("4294967296", "9007199254740993", "18446744073709551616", "1" + "0" * 30, CANARY_DIGITS),
)
NO_AMOUNT = (
    *("", " ", "5 ", " 5", " 5 ", "5\t", "5\n", "\n5", "5\r\n", "\t5", "5\x00", "\x005", "5\x7f"),
    *("+5", "--5", "+-5", "5-", "(5)", "5.", ".5", ".", "-", "-.5", "05", "00.5", "007", "5..0"),
    *("5,00", "1,000.00", "1.000,00", "1 000", "1_000", "1'000", "5;00", "5:00", "1.2.3", "5.0.0"),
    *("1e2", "1E2", "5e0", "1e-2", "1e", "e1", "1e400", "1e999999999999", "0x5", "0b1", "5f", "5L"),
    *("NaN", "nan", "sNaN", "Infinity", "-Infinity", "inf", "-inf", "null", "None", "true", "zero"),
    *("$5", "5$", "\u20ac5", "5\u20ac", "5 EUR", "EUR 5.00", "5%", "1/2", "five", "2+3", "5*1"),
    *("\u0665", "\u06f5", "\uff15", "\u0967", "\u00bd", "\u00b2", "\u2464", "\u4e94", "\u2155"),
    *("\u00a05", "5\u00a0", "5\u200b", "\u200e5", "\ufeff5", "\u22125", "5\u066b5", "1\u2009000"),
    *("2026-11-23", "12:30", "1.0.0.1", "5\u0000.00", "5.00;DROP", "{{5}}", "%d", "9" * 10_000),
)


@named("amounts that are valid")
def valid(series: Series) -> Iterator[Case]:
    for text in TRAPS:
        yield series.stored(f"{text} as a number", series.order(totalAmount=Verbatim(text)))
        if "e" not in text:
            yield series.stored(f"{text} as a text", series.order(totalAmount=text))


@named("amounts with zeros behind")
def zeros(series: Series) -> Iterator[Case]:
    for text in ZEROS:
        what = text[:20]
        yield series.stored(f"{what} as a number", series.order(totalAmount=Verbatim(text)))
        yield series.stored(f"{what} as a text", series.order(totalAmount=text))


@named("more than two decimals")
def surplus(series: Series) -> Iterator[Case]:
    for text in SURPLUS:
        yield series.no_order(f"{text[:24]} as a number", series.order(totalAmount=Verbatim(text)))
        yield series.no_order(f"{text[:24]} as a text", series.order(totalAmount=text))


@named("nothing or less")
def nothing(series: Series) -> Iterator[Case]:
    for text in NO_MORE_THAN_ZERO:
        yield series.no_order(f"{text} as a number", series.order(totalAmount=Verbatim(text)))
        yield series.no_order(f"{text} as a text", series.order(totalAmount=text))


@named("too much money")
def too_much(series: Series) -> Iterator[Case]:
    for text in TOO_MUCH:
        yield series.no_order(f"{text} as a number", series.order(totalAmount=Verbatim(text)))
        yield series.no_order(f"{text} as a text", series.order(totalAmount=text))


@named("texts that are no amount")
def no_amount(series: Series) -> Iterator[Case]:
    for text in NO_AMOUNT:
        yield series.no_order(f"{text[:20]!a} as totalAmount", series.order(totalAmount=text))
    for text in NO_AMOUNT[::2]:
        fields = series.order(items=[line(unitPrice=text)])
        yield series.no_order(f"{text[:20]!a} as unitPrice", fields)


@named("prices of a unit")
def prices(series: Series) -> Iterator[Case]:
    for text in ("0", "0.00", "0.001", "0.000000000000000001", "5", "100000000", "9" * 60, "1.005"):
        for price in (Verbatim(text), text):
            fields = series.order(items=[line(unitPrice=price)])
            yield series.stored(f"{text_of(price)}", fields)
    yield series.stored("-0", series.order(items=[line(unitPrice=Verbatim("-0"))]))
    yield series.stored("-0.0", series.order(items=[line(unitPrice=Verbatim("-0.0"))]))
    for text in ("-0.01", "-1", f"-{CANARY_DIGITS}", "-0.000000000000000001", "-1e-400"):
        fields = series.order(items=[line(unitPrice=Verbatim(text))])
        yield series.no_order(f"{text}", fields)
