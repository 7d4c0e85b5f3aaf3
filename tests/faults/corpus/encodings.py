"""Bodies that are not UTF-8, or not what UTF-8 may write."""

from __future__ import annotations

import codecs
from collections.abc import Iterator

from tests.faults.corpus.case import CANARY, Case
from tests.faults.corpus.json_text import PLACES, placed
from tests.faults.corpus.series import Series, line, named, text_of

WIDE = (
    *("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"),
    *("cp037", "cp500", "cp1026"),
)
MARKS = {
    "UTF-8": codecs.BOM_UTF8,
    "UTF-16 LE": codecs.BOM_UTF16_LE,
    "UTF-16 BE": codecs.BOM_UTF16_BE,
    "UTF-32 LE": codecs.BOM_UTF32_LE,
    "UTF-32 BE": codecs.BOM_UTF32_BE,
    "UTF-7": b"+/v8",
    "SCSU": b"\x0e\xfe\xff",
    "GB 18030": b"\x84\x31\x95\x33",
}
TEXTS = {
    "latin-1": "caf\u00e9",
    "cp1252": "5 \u20ac",
    "iso8859-15": "\u20ac\u0160",
    "cp437": "\u2588",
    "cp1251": "\u0437\u0430\u043a\u0430\u0437",
    "koi8-r": "\u0437\u0430\u043a\u0430\u0437",
    "iso8859-7": "\u03b1\u03b2",
    "shift_jis": "\u6ce8\u6587",
    "euc-jp": "\u6ce8\u6587",
    "gb18030": "\u8ba2\u5355",
    "big5": "\u8a02\u55ae",
    "euc-kr": "\uc8fc\ubb38",
    "mac-roman": "\u00e9",
}
MALFORMED = {
    "a lone continuation byte": b"\x80",
    "two continuation bytes": b"\xbf\xbf",
    "a start of two bytes alone": b"\xc3",
    "a start of three bytes alone": b"\xe2",
    "two of three bytes": b"\xe2\x82",
    "three of four bytes": b"\xf0\x9f\x98",
    "an overlong slash in two bytes": b"\xc0\xaf",
    "an overlong slash in three bytes": b"\xe0\x80\xaf",
    "an overlong slash in four bytes": b"\xf0\x80\x80\xaf",
    "an overlong quote": b"\xc0\xa2",
    "an overlong NUL": b"\xc0\x80",
    "a high surrogate": b"\xed\xa0\x80",
    "a low surrogate": b"\xed\xb0\x80",
    "a pair of surrogates (CESU-8)": b"\xed\xa0\xbd\xed\xb8\x80",
    "beyond the last character": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80",
    "six bytes": b"\xfc\x84\x80\x80\x80\x80",
    "FE": b"\xfe",
    "FF": b"\xff",
}
LONE = (
    *(r"\ud800", r"\uD800", r"\udbff", r"\udc00", r"\udfff", r"\ud83dx", r"\udc00\ud800"),
    *(r"\ud83d\ud83d\ude00", r"\ud83d\u0041", r"\ud83d\\ude00"),
)


@named("wide encodings")
def wide(series: Series) -> Iterator[Case]:
    for encoding in WIDE:
        for sku in (CANARY, f"{CANARY} \u00e9" if "utf" in encoding else f"{CANARY}!"):
            text = text_of(series.order(items=[line(sku=sku)]))
            yield series.not_json(f"{encoding}, sku {sku!a}", text.encode(encoding))


@named("byte order marks")
def marks(series: Series) -> Iterator[Case]:
    for what, mark in MARKS.items():
        yield series.not_json(f"{what} before", mark + text_of(series.order()).encode())
    yield series.not_json("twice", codecs.BOM_UTF8 * 2 + text_of(series.order()).encode())
    yield series.not_json("after", text_of(series.order()).encode() + codecs.BOM_UTF8)
    yield series.not_json("alone", codecs.BOM_UTF8)
    fields = series.order(items=[line(sku=f"\ufeff{CANARY}")])
    yield series.stored("inside a text, where it is a character", fields)


@named("other encodings")
def others(series: Series) -> Iterator[Case]:
    for encoding, text in TEXTS.items():
        for place in ("sku", "note", "name"):
            body = placed(series, place, text).encode(encoding)
            yield series.not_json(f"{encoding} in {place}", body)
    fields = series.order(items=[line(sku=f"{CANARY}+AOk-")])
    yield series.stored("UTF-7, which is ASCII", fields)
    fields = series.order(items=[line(sku=f"{CANARY} caf\u00c3\u00a9")])
    yield series.stored("UTF-8 that was encoded twice", fields)


@named("malformed UTF-8")
def malformed(series: Series) -> Iterator[Case]:
    for what, raw in MALFORMED.items():
        for place in PLACES:
            body = placed(series, place, "@@").encode().replace(b"@@", raw)
            yield series.not_json(f"{what} in {place}", body)
    for what, raw in MALFORMED.items():
        body = text_of(series.order()).encode()
        yield series.not_json(f"{what} at the end", body + raw)


@named("lone surrogates, escaped")
def surrogates(series: Series) -> Iterator[Case]:
    for escape in LONE:
        for place in PLACES:
            yield series.not_json(f"{escape} in {place}", placed(series, place, escape))


@named("characters beyond ASCII")
def characters(series: Series) -> Iterator[Case]:
    for text in (
        *("caf\u00e9", "cafe\u0301", "\u8ba2\u5355", "\N{GRINNING FACE}", "\U0001f1e9\U0001f1ea"),
        *("\u0000", "\u007f", "\u0085", "\u2028", "\u202e", "\ufeff", "\ufffd", "\uffff"),
        *("\U0010ffff", "\u200d", "\u0130", "\u00df", "\u1e9e", "\ufb01", "Z" + "\u0335" * 200),
    ):
        fields = series.order(items=[line(sku=CANARY + text)])
        raw = text_of(fields)
        if "\x00" not in text:
            yield series.stored(f"{text[:3]!a} in a sku", fields, raw.encode())
        escaped = "".join(
            f"\\u{unit:04x}" for unit in memoryview(text.encode("utf-16-le")).cast("H")
        )
        fields = series.order(items=[line(sku=CANARY + text)])
        body = text_of(fields | {"items": [line(sku="@@")]}).replace("@@", CANARY + escaped)
        yield series.stored(f"{text[:3]!a} in a sku, escaped", fields, body.encode())
