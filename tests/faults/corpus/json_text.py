"""What stands where an order should, what stands around it, and how its texts are written."""

from __future__ import annotations

import base64
import gzip
import zlib
from collections.abc import Iterator

from tests.faults.corpus.case import CANARY, UNKNOWN, Case
from tests.faults.corpus.series import Series, Verbatim, line, named, text_of

BLANK = (" ", "\t", "\n", "\r", "\r\n", " \t\r\n" * 20)
NO_BLANK = (
    *("\x0b", "\x0c", "\x85", "\xa0", "\u1680", "\u2000", "\u2028", "\u2029", "\u200b", "\u3000"),
    *("\ufeff", "\x00", "\x1a", "\x1b[0m", "\x7f"),
)
BEFORE = (")]}',\n", "while(1);", "callback(", "// order\n", "/* order */", "# order\n", "data: ")
AFTER = (";", ")", "\x04", "// order", "}", "]", ",", "null", "...", "--")


@named("blanks around the JSON")
def blanks(series: Series) -> Iterator[Case]:
    for blank in BLANK:
        fields = series.order()
        text = text_of(fields)
        yield series.stored(f"{blank!r} before", fields, (blank + text).encode())
        fields = series.order()
        yield series.stored(f"{blank!r} after", fields, (text_of(fields) + blank).encode())
        fields = series.order()
        text = text_of(fields).replace(",", f"{blank},{blank}").replace(":", f"{blank}:{blank}")
        yield series.stored(f"{blank!r} within", fields, text.encode())


@named("text around the JSON")
def around(series: Series) -> Iterator[Case]:
    for extra in (*NO_BLANK, *BEFORE):
        yield series.not_json(f"{extra!r} before", extra + text_of(series.order()))
    for extra in (*NO_BLANK, *AFTER):
        yield series.not_json(f"{extra!r} after", text_of(series.order()) + extra)


@named("another format")
def another_format(series: Series) -> Iterator[Case]:
    text = text_of(series.order())
    for what, body in {
        "nothing": b"",
        "a blank": b" ",
        "a line break": b"\n",
        "plain text": f"order {CANARY}".encode(),
        "XML": f'<?xml version="1.0"?><order id="{CANARY}"/>'.encode(),
        "an external entity": (
            f'<!DOCTYPE o [<!ENTITY x SYSTEM "file:///etc/{CANARY}">]><o>&x;</o>'.encode()
        ),
        "HTML": f"<!doctype html><title>{CANARY}</title>".encode(),
        "YAML": f"orderId: {CANARY}\nuserId: u\nitems: []\n".encode(),
        "TOML": f'orderId = "{CANARY}"\n'.encode(),
        "CSV": f"orderId,userId\n{CANARY},u\n".encode(),
        "a form": f"orderId={CANARY}&userId=u".encode(),
        "MessagePack": b"\x81\xa7orderId\xab" + CANARY.encode(),
        "CBOR": b"\xa1\x67orderId\x6b" + CANARY.encode(),
        "Protocol Buffers": b"\x0a\x0b" + CANARY.encode(),
        "Avro": b"Obj\x01\x04\x16avro.schema" + CANARY.encode(),
        "a pickle": b"\x80\x04\x95" + CANARY.encode() + b".",
        "gzip": gzip.compress(text.encode(), mtime=0),
        "zlib": zlib.compress(text.encode()),
        "Base64": base64.b64encode(text.encode()),
        "a ZIP archive": b"PK\x03\x04" + CANARY.encode(),
        "a picture": b"\x89PNG\r\n\x1a\n" + CANARY.encode(),
        "zeros": bytes(64) + CANARY.encode(),
        "all bytes": bytes(range(256)) + CANARY.encode(),
        "an HTTP request": f"POST /{CANARY} HTTP/1.1\r\nHost: a\r\n\r\n{{}}".encode(),
    }.items():
        yield series.not_json(what, body)


@named("a dialect of JSON")
def dialects(series: Series) -> Iterator[Case]:
    for old, new in (
        ('"', "'"),
        ('"orderId"', "orderId"),
        ('"orderId"', '"orderId" // which'),
        ('"orderId"', '/* which */ "orderId"'),
        ('"orderId"', '# which\n"orderId"'),
        ("}]}", "},]}"),
        ("}]}", "}],}"),
        ("}]}", "}]}},"),
        (":12.34", "=12.34"),
        (":12.34", "=>12.34"),
        (":12.34", ": 12.34,,"),
        (":12.34", ":undefined"),
        (":12.34", ":None"),
        (":12.34", ":True"),
        (":12.34", ":nil"),
        (":12.34", ":NULL"),
        (":12.34", ":(12.34)"),
        (":12.34", ":Decimal('12.34')"),
        (":12.34", ":`12.34`"),
        (":12.34", ":/12.34/"),
        (":12.34", ":12.34 12.34"),
        (":12.34", ":"),
        (":12.34", ""),
        (":12.34", ":new Date()"),
        (":12.34", ':b"12.34"'),
        (":12.34", ':"12" + ".34"'),
        (":12.34", ':"""12.34"""'),
    ):
        text = text_of(series.order())
        yield series.not_json(
            f"{new!r} for {old!r}", text.replace(old, new, 1 if new != "'" else -1)
        )


@named("no object")
def no_object(series: Series) -> Iterator[Case]:
    digits = f"{len(CANARY)}7356412908"
    for text in (
        *("null", "true", "false", "0", "-1", "1.5", digits, f"-{digits}", f"{digits}e400"),
        *('""', f'"{CANARY}"', "[]", "[[]]", "[{}]", f'["{CANARY}"]', "[null]", "{}"),
        f'{{"{CANARY}":1}}',
        f'"{CANARY}{{}}"',
        f"[{text_of(series.order())}]",
        f"[{text_of(series.order())},{text_of(series.order())}]",
        f'{{"order":{text_of(series.order())}}}',
        f'{{"data":{{"order":{text_of(series.order())}}}}}',
        text_of(text_of(series.order())),
    ):
        yield series.no_order(f"only {text[:20]}", Verbatim(text), UNKNOWN)


ESCAPES = (
    *(r"\x41", r"\u12", r"\u12G4", r"\u{41}", r"\U00000041", r"\'", r"\0", r"\a", r"\v", r"\e"),
    *("\\\n", r"\u+041", r"\u 041", r"\u-001", r"\uD83D\u", r"\N{DASH}", r"\%", "\\\u00e9"),
)
PLACES = ("orderId", "userId", "idempotencyKey", "sku", "note", "name")


def placed(series: Series, place: str, text: str) -> str:
    """An order with this text, unquoted and verbatim, at the end of a value or of a name."""
    written = Verbatim(f'"{CANARY}{text}"')
    if place == "sku":
        return text_of(series.order(items=[line(sku=written)]))
    if place == "name":
        return text_of(series.order(note=Verbatim(f"{{{written}:1}}")))
    return text_of(series.order(**{place: written}))


@named("broken escapes")
def escapes(series: Series) -> Iterator[Case]:
    for escape in ESCAPES:
        for place in PLACES:
            yield series.not_json(f"{escape!r} in {place}", placed(series, place, escape))


@named("escapes that mean something")
def good_escapes(series: Series) -> Iterator[Case]:
    for escape, meaning in (
        (r"\u0041", "A"),
        (r"\/", "/"),
        (r"\\", "\\"),
        (r"\"", '"'),
        (r"\\ud800", r"\ud800"),
        (r"\u005c\u0075", r"\u"),
        (r"\u007e", "~"),
        (r"\u0021", "!"),
    ):
        fields = series.order()
        written = text_of(fields).replace(fields["orderId"], fields["orderId"] + escape)
        said = fields | {
            "orderId": fields["orderId"] + meaning,
            "idempotencyKey": f"{fields['idempotencyKey']}{meaning}",
        }
        yield series.stored(f"{escape} in ids", said, written.encode())
        fields = series.order(items=[line(sku=f"sku-{CANARY}")])
        written = text_of(fields).replace(f"sku-{CANARY}", f"sku-{CANARY}{escape}")
        said = fields | {"items": [line(sku=f"sku-{CANARY}{meaning}")]}
        yield series.stored(f"{escape} in a sku", said, written.encode())
    for name, written in (("orderId", r"\u006frderId"), ("items", r"\u0069\u0074ems")):
        fields = series.order()
        body = text_of(fields).replace(f'"{name}"', f'"{written}"')
        yield series.stored(f"{name} written with escapes", fields, body.encode())
