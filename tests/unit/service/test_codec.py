"""Bytes in, strict JSON or a refusal out; and equal orders have equal fingerprints."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from order_contracts import MAX_BODY_BYTES, MAX_DEPTH, FailureReason, OrderCreated
from service.consumer.codec import decode
from service.domain.errors import Refusal
from service.domain.fingerprint import canonical_decimal, fingerprint
from tests.factories import order_created, order_created_fields

TEXT = st.text(st.characters(codec="utf-8"))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=15,
)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)


def refusal_of(body: bytes, content_encoding: str | None = None) -> Refusal:
    with pytest.raises(Refusal) as caught:
        decode(body, content_encoding)
    return caught.value


def nested(levels: int, *, objects: bool = False) -> bytes:
    if objects:
        return b'{"a":' * levels + b"1" + b"}" * levels
    return b"[" * levels + b"]" * levels


@given(JSON, st.booleans())
def test_any_strict_json_comes_out_as_it_went_in(value: Any, ascii_only: bool) -> None:
    assert decode(json.dumps(value, ensure_ascii=ascii_only).encode()) == value


@given(st.binary(max_size=60) | st.text('{}[]",:\\u0123dD8eE+-.NaIty \n\ufeff', max_size=60))
@example("1" * 5000)
@example("-" + "9" * 5000)
@example("[1e999999999999999999999999]")
@example(b"[" * 900)
@example(b"\xed\xa0\x80")
@example('{"a":1,"a":1}')
@example("\x00")
@example("")
def test_whatever_comes_is_decoded_or_refused_with_a_reason(body: bytes | str) -> None:
    body = body.encode() if isinstance(body, str) else body
    refusal: Refusal | None = None
    try:
        decode(body)
    except Refusal as error:
        refusal = error
    assert refusal is None or refusal.reason is FailureReason.INVALID_JSON
    assert refusal is None or refusal.details.startswith("body: ")


@pytest.mark.parametrize(
    "body",
    [
        '{"a":1,"a":1}',
        '{"a":1,"b":2,"a":3}',
        '{"deep":[{"deeper":{"a":1,"a":2}}]}',
        '[[[{"":0,"":0}]]]',
        r'{"a":1,"\u0061":2}',
    ],
)
def test_an_object_that_names_a_key_twice_is_refused_at_any_depth(body: str) -> None:
    assert refusal_of(body.encode()).details == "body: an object names the same key twice"


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("frame", ["%s", "[%s]", '{"a":{"b":[1,%s]}}'])
def test_nan_and_infinity_are_refused_at_any_depth(constant: str, frame: str) -> None:
    body = (frame % constant).encode()
    assert refusal_of(body).details == "body: NaN and Infinity are not JSON"


@pytest.mark.parametrize(
    "body",
    [
        r'"\ud800"',
        r'"a\udfffb"',
        r'["\udc00\ud800"]',
        r'{"\ud83d":1}',
        r'{"a":[{"b":"\uD800x"}]}',
    ],
)
def test_a_lone_surrogate_is_refused_in_values_and_in_keys(body: str) -> None:
    assert "lone surrogate" in refusal_of(body.encode()).details


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert decode(rb'"\ud83d\ude00"') == "\N{GRINNING FACE}"


def test_a_backslash_and_the_letter_u_are_no_surrogate() -> None:
    assert decode(rb'"\\ud800"') == r"\ud800"


@pytest.mark.parametrize("objects", [False, True])
def test_32_levels_are_read_and_33_are_refused(objects: bool) -> None:
    decode(nested(MAX_DEPTH, objects=objects))
    refusal = refusal_of(nested(MAX_DEPTH + 1, objects=objects))
    assert refusal.details == "body: nested deeper than 32 levels"


def test_many_containers_beside_each_other_are_not_deep() -> None:
    assert decode(b"[" + b"[],{}," * 100 + b"[]]")


@pytest.mark.parametrize("objects", [False, True])
@pytest.mark.parametrize("levels", [900, 40_000])
def test_deep_nesting_is_refused_and_overflows_nothing(levels: int, objects: bool) -> None:
    refusal = refusal_of(nested(levels, objects=objects))
    assert refusal.details == "body: nested deeper than 32 levels"


def test_nesting_that_never_closes_is_refused() -> None:
    assert refusal_of(b"[" * 100_000).reason is FailureReason.INVALID_JSON


@pytest.mark.parametrize(
    "body",
    [
        "\ufeff{}".encode(),
        "{}".encode("utf-16"),
        "{}".encode("utf-16-le"),
        "{}".encode("utf-32"),
        b'"\xff"',
        b'"\xc3\x28"',
        b'"\xed\xa0\x80"',  # a surrogate, as UTF-8 must not write it
        b'"\xc0\xaf"',  # longer than it needs to be
        b'"a\x00b"',
        b'"a\nb"',
        b'"a\x1fb"',
        b"",
        b"   ",
        b"{} {}",
        b"{'a':1}",
        b'{"a":1,}',
        b"[1,]",
        b"01",
        b"+1",
        b"1.",
        b".5",
        b"0x10",
        b"1_000",
        "\u0661\u0662".encode(),
        b"True",
        b"// nothing\n{}",
        b"\x0b{}",
        "\u00a0{}".encode(),
    ],
)
def test_what_is_not_strict_utf8_json_is_refused(body: bytes) -> None:
    assert refusal_of(body).reason is FailureReason.INVALID_JSON


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 5000, "1e99999999999999999999"])
def test_a_number_beyond_all_bounds_spoils_no_other_field(number: str) -> None:
    value = decode(f'{{"a": {number}, "b": 1, "c": 2.5}}'.encode())
    assert (value["b"], value["c"]) == (1, Decimal("2.5"))
    assert isinstance(value["b"], int)
    assert isinstance(value["a"], Decimal)


def test_a_number_beyond_what_decimal_holds_is_not_a_number_any_more() -> None:
    assert decode(b"1e99999999999999999999").is_nan()


@pytest.mark.parametrize("number", ["1e400", "1E-400", "0." + "1" * 5000, "1e999999999"])
def test_a_large_or_a_fine_number_is_exact(number: str) -> None:
    assert decode(number.encode()) == Decimal(number)


def test_no_number_is_ever_a_float() -> None:
    numbers = decode(b"[0.1, 1e2, 99.99, -0.0, 3, 1.0]")
    assert [type(number) for number in numbers] == [
        Decimal,
        Decimal,
        Decimal,
        Decimal,
        int,
        Decimal,
    ]
    assert str(numbers[0]) == "0.1"


def test_a_body_of_256_kib_is_read_and_one_byte_more_refused() -> None:
    body = b'"' + b"a" * (MAX_BODY_BYTES - 2) + b'"'
    assert len(decode(body)) == MAX_BODY_BYTES - 2
    refusal = refusal_of(body + b" ")
    assert refusal.reason is FailureReason.PAYLOAD_TOO_LARGE
    assert refusal.details == "body: 262145 bytes, at most 262144 are read"


@pytest.mark.parametrize("encoding", ["gzip", "base64", "utf-16", "identity, gzip", " "])
def test_a_content_encoding_that_changes_the_bytes_is_refused_before_anything_is_read(
    encoding: str,
) -> None:
    assert refusal_of(b"{}", encoding).reason is FailureReason.UNSUPPORTED_ENCODING


@pytest.mark.parametrize("encoding", [None, "", "identity", "UTF-8", "utf-8", "utf8"])
def test_an_absent_content_encoding_is_none(encoding: str | None) -> None:
    assert decode(b"{}", encoding) == {}


def test_a_refusal_quotes_nothing_of_the_body() -> None:
    for body in (
        b'{"c4nary":1,"c4nary":2}',
        b'{"c4nary":NaN}',
        rb'{"c4nary":"\ud800"}',
        b'{"a":c4nary}',
        b'"c4nary\xff"',
        b"c4nary",
    ):
        refusal = refusal_of(body)
        assert "c4nary" not in f"{refusal} {refusal!r} {refusal.details}"
        assert refusal.__suppress_context__


def as_order(fields: dict[str, Any]) -> OrderCreated:
    """Through the wire: bytes, the codec, the model."""
    return OrderCreated.model_validate(decode(json.dumps(fields).encode()))


@given(st.permutations(list(order_created_fields())), st.permutations(["sku", "quantity"]))
def test_the_order_of_fields_does_not_count(names: list[str], line: list[str]) -> None:
    fields = order_created_fields()
    item = fields["items"][0]
    reordered = {name: fields[name] for name in names}
    reordered["items"] = [{"unitPrice": item["unitPrice"]} | {name: item[name] for name in line}]
    assert fingerprint(as_order(reordered)) == fingerprint(as_order(fields))


@given(st.dictionaries(TEXT.map("x-{}".format), JSON, max_size=3))
def test_fields_the_contract_does_not_know_do_not_count(unknown: dict[str, Any]) -> None:
    fields = order_created_fields()
    items = [item | unknown for item in fields["items"]]
    assert fingerprint(as_order(fields | unknown | {"items": items})) == fingerprint(
        as_order(fields)
    )


@pytest.mark.parametrize("field", ["totalAmount", "unitPrice"])
def test_a_number_has_one_fingerprint_however_it_is_written(field: str) -> None:
    prints = set()
    for text in ("99.9", '"99.9"', "99.90", '"99.90"', "999e-1", "0.999E+2", '"99.900"'):
        body = json.dumps(order_created_fields(items=[{"sku": "a", "quantity": 1, "unitPrice": 1}]))
        body = body.replace("99.99", text) if field == "totalAmount" else body
        body = (
            body.replace('"unitPrice": 1', f'"unitPrice": {text}') if field == "unitPrice" else body
        )
        prints.add(fingerprint(OrderCreated.model_validate(decode(body.encode()))))
    assert len(prints) == 1


LINE = {"sku": "85123A", "quantity": 6, "unitPrice": "2.55"}
CHANGES: list[dict[str, Any]] = [
    {"orderId": "order-102"},
    {"orderId": "Order-101"},
    {"userId": "user-457"},
    {"totalAmount": "99.98"},
    {"items": []},
    {"items": [LINE, LINE]},
    {"items": [LINE | {"sku": "85123B"}]},
    {"items": [LINE | {"sku": "85123A "}]},
    {"items": [LINE | {"quantity": 7}]},
    {"items": [LINE | {"unitPrice": "2.56"}]},
    {"items": [LINE | {"unitPrice": "2.5500000000000000000000000000000001"}]},
    {"items": [LINE | {"sku": "a"}, LINE]},
    {"items": [LINE, LINE | {"sku": "a"}]},
]


def test_every_field_of_the_content_counts() -> None:
    prints = [fingerprint(order_created(**change)) for change in [{}, *CHANGES]]
    assert len(set(prints)) == len(prints)


def test_what_stands_in_one_field_never_passes_for_another() -> None:
    assert fingerprint(order_created(orderId="a", userId='b"c')) != fingerprint(
        order_created(orderId='a","b', userId="c")
    )


def test_a_fingerprint_is_a_sha256_digest_that_never_changes() -> None:
    """Stored fingerprints are compared with those of later versions: this value is for ever."""
    assert (
        fingerprint(order_created()).hex()
        == "ba9403c4514f54fd9210a78f6fef663cb75ae85bf60ec21fe4e7e2514b3be1ce"
    )


@given(DECIMALS, st.integers(0, 50))
def test_one_number_has_one_canonical_text(number: Decimal, zeros: int) -> None:
    sign, digits, exponent = number.as_tuple()
    padded = Decimal((sign, digits + (0,) * zeros, int(exponent) - zeros))
    assert canonical_decimal(padded) == canonical_decimal(number)
    assert Decimal(canonical_decimal(number)) == number


@given(DECIMALS, DECIMALS)
def test_two_numbers_have_two_canonical_texts(one: Decimal, other: Decimal) -> None:
    assert (canonical_decimal(one) == canonical_decimal(other)) == (one == other)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("99.9", "999e-1"),
        ("99.90", "999e-1"),
        ("999E-1", "999e-1"),
        ("100", "1e2"),
        ("1E+2", "1e2"),
        ("-1.50", "-15e-1"),
        ("0", "0"),
        ("0.00", "0"),
        ("-0", "0"),
        ("0E+999999", "0"),
        ("1E+999999999", "1e999999999"),
        ("1." + "0" * 60 + "1", "1" + "0" * 60 + "1e-61"),
        ("9" * 5000, "9" * 5000 + "e0"),
    ],
)
def test_the_canonical_text_is_exact_at_any_length(number: str, text: str) -> None:
    assert canonical_decimal(Decimal(number)) == text
