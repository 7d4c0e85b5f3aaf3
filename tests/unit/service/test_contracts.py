"""What an OrderCreated may say, each rule at its edge; and what goes out."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from order_contracts import (
    MAX_TOTAL,
    FailureReason,
    OrderCreated,
    OrderFailed,
    OrderProcessed,
    exact_decimal,
)
from service.consumer.codec import decode
from tests.factories import order_created, order_created_fields

IDENTIFIERS = ("orderId", "userId", "idempotencyKey")
CANARY = "c4nary-7f3a"


def received(**fields: Any) -> OrderCreated:
    """As it comes: through bytes and the codec. A `bytes` value stands as JSON text, verbatim."""
    verbatim = dict[str, str]()

    def mark(value: bytes) -> str:
        return verbatim.setdefault(value.decode(), f"@{len(verbatim)}@")

    text = json.dumps(order_created_fields() | fields, default=mark)
    for value, placeholder in verbatim.items():
        text = text.replace(f'"{placeholder}"', value)
    return OrderCreated.model_validate(decode(text.encode()))


def item(**fields: Any) -> dict[str, Any]:
    return {"sku": "85123A", "quantity": 6, "unitPrice": "2.55"} | fields


def faults(**fields: Any) -> list[tuple[Any, ...]]:
    """Where the rules were broken; empty for a valid order."""
    try:
        received(**fields)
    except ValidationError as error:
        return [fault["loc"] for fault in error.errors()]
    return []


def test_the_examples_of_the_contract_are_valid() -> None:
    order = received(items=[])
    assert (order.order_id, order.total_amount, order.items) == ("order-101", Decimal("99.99"), ())


@pytest.mark.parametrize("field", IDENTIFIERS)
@pytest.mark.parametrize("value", ["a", "!", "~", "a" * 255, "A-b_c.d/e:f#%'\"\\"])
def test_an_identifier_is_1_to_255_printable_ascii_characters(field: str, value: str) -> None:
    assert faults(**{field: value}) == []


@pytest.mark.parametrize("field", IDENTIFIERS)
@pytest.mark.parametrize(
    "value",
    [
        *("", " ", "a b", " a", "a ", "a\n", "\na", "a\r", "a\t", "a\x00", "a\x7f", "\x1b[31m"),
        *(
            "a" * 256,
            "\u00e9",
            "\u0430",
            "a\u0301",
            "\u0661",
            "\u200b",
            "a\u2028",
            "\N{PILE OF POO}",
        ),
        *(None, 1, 1.5, True, [], ["a"], {}, {"a": "b"}),
    ],
)
def test_anything_else_is_no_identifier(field: str, value: Any) -> None:
    assert faults(**{field: value}) == [(field,)]


@given(st.text(st.characters(codec="utf-8"), max_size=300))
def test_the_rule_for_identifiers_is_the_same_for_any_text(text: str) -> None:
    valid = 1 <= len(text) <= 255 and all("!" <= character <= "~" for character in text)
    assert (faults(orderId=text) == []) == valid


@pytest.mark.parametrize("field", [*IDENTIFIERS, "totalAmount", "items"])
def test_every_field_is_required(field: str) -> None:
    fields = order_created_fields()
    del fields[field]
    with pytest.raises(ValidationError) as caught:
        OrderCreated.model_validate(fields)
    assert [(fault["loc"], fault["msg"]) for fault in caught.value.errors()] == [
        ((field,), "Field required")
    ]


def test_fields_are_known_by_their_names_on_the_wire_alone() -> None:
    snake = {
        "order_id": "a",
        "user_id": "b",
        "total_amount": 1,
        "idempotency_key": "k",
        "items": [{"sku": "a", "quantity": 1, "unit_price": 1}],
    }
    with pytest.raises(ValidationError) as caught:
        OrderCreated.model_validate(snake)
    assert len(caught.value.errors()) == 5
    assert received(order_id="x", orderId="o-1").order_id == "o-1"


def test_unknown_fields_are_ignored_at_any_level() -> None:
    order = received(more={"deep": [1]}, items=[item(colour="white", more=[])])
    assert order == order_created()


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        (b"0.01", "0.01"),
        (b'"0.01"', "0.01"),
        (b"1", "1"),
        (b"99999999.99", "99999999.99"),
        (b'"99999999.99"', "99999999.99"),
        (b"99.990", "99.99"),
        (b'"99.990000000000000000000000000000000000000000"', "99.99"),
        (b"1e2", "100"),
        (b"9999e-2", "99.99"),
        (b"1E+7", "10000000"),
        (b"0.1", "0.1"),
        (b"33333333.33", "33333333.33"),
    ],
)
def test_an_amount_is_exact_as_a_number_and_as_text(text: bytes, amount: str) -> None:
    assert received(totalAmount=text).total_amount == Decimal(amount)


@pytest.mark.parametrize(
    "text",
    [
        *(b"0", b"-0", b"0.00", b"-1", b"-0.01", b'"0"', b'"-1"', b'"-0.01"', b"0e5"),
        *(b"0.001", b'"0.001"', b"99.999", b"0.0100000000000000000000000000000000000000001"),
        *(b"100000000", b'"100000000"', b"99999999.991", b"99999999.9900000001", b"1e8"),
        *(b"1e999999999", b"1e-999999999", b'"1e2"', b'"1_000"', b'" 5 "', b'"5 "', b'"5\\n"'),
        *(b'"+5"', b'"5."', b'".5"', b'"05"', b'"0x5"', b'""', b'"abc"', b'"1,00"', b'"--1"'),
        *(b'"NaN"', b'"Infinity"', b'"-inf"', b"true", b"false", b"null", b"[]", b"[1]", b"{}"),
        *(
            '"\u0661\u0662"'.encode(),
            '"\uff15"'.encode(),
            '"\u00b2"'.encode(),
            '"5\u00a0"'.encode(),
        ),
        *(b"9" * 4000, b'"' + b"9" * 100_000 + b'"', b"0." + b"1" * 100_000),
    ],
)
def test_an_amount_that_breaks_a_rule_is_refused(text: bytes) -> None:
    assert faults(totalAmount=text) == [("totalAmount",)]


@given(st.decimals("0.01", MAX_TOTAL, places=2), st.integers(0, 40))
def test_no_amount_goes_through_a_float(amount: Decimal, zeros: int) -> None:
    text = f"{amount}{'0' * zeros}"
    for written in (text.encode(), f'"{text}"'.encode()):
        assert str(received(totalAmount=written).total_amount) == text


def test_an_amount_that_a_float_cannot_hold_is_kept() -> None:
    price = "0.1000000000000000055511151231257827021181583404541015625000000000000000000001"
    for written in (price.encode(), f'"{price}"'.encode()):
        assert str(received(items=[item(unitPrice=written)]).items[0].unit_price) == price


def test_a_python_float_counts_as_its_shortest_text() -> None:
    assert exact_decimal(99.9) == Decimal("99.9")


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), Decimal("NaN"), Decimal("-Infinity")]
)
def test_no_amount_is_not_finite(value: Any) -> None:
    with pytest.raises(ValidationError):
        order_created(totalAmount=value)


@pytest.mark.parametrize("price", [0, "0", "0.00", b"-0", 1, "2.55", "0.000001", 10**20])
def test_a_unit_price_is_zero_or_more_with_any_decimals(price: Any) -> None:
    assert faults(items=[item(unitPrice=price)]) == []


@pytest.mark.parametrize(
    "price", [-1, "-0.01", "-0", "-0.00", None, True, "", "1e2", "NaN", [], {}]
)
def test_a_unit_price_that_breaks_a_rule_is_refused(price: Any) -> None:
    assert faults(items=[item(unitPrice=price)]) == [("items", 0, "unitPrice")]


@pytest.mark.parametrize(
    "quantity", [1, 6, 2**63 - 1, 2.0, b"2.0", b"2e0", b"9223372036854775807.0"]
)
def test_a_quantity_is_a_whole_number_from_1(quantity: Any) -> None:
    assert received(items=[item(quantity=quantity)]).items[0].quantity == Decimal(
        quantity.decode() if isinstance(quantity, bytes) else quantity
    )


@pytest.mark.parametrize(
    "quantity", [0, -1, 2**63, 10**4000, True, False, b"1e999999", 1.5, "1", None, [], {}]
)
def test_a_quantity_that_breaks_a_rule_is_refused(quantity: Any) -> None:
    assert faults(items=[item(quantity=quantity)]) == [("items", 0, "quantity")]


@pytest.mark.parametrize("sku", ["", " ", "85123A", "\u00e9\N{PILE OF POO}", "a\nb", "x" * 10_000])
def test_a_sku_is_any_text(sku: str) -> None:
    assert received(items=[item(sku=sku)]).items[0].sku == sku


@pytest.mark.parametrize("sku", [None, 1, True, [], {}])
def test_a_sku_is_text(sku: Any) -> None:
    assert faults(items=[item(sku=sku)]) == [("items", 0, "sku")]


@pytest.mark.parametrize("items", [None, "", "[]", 0, True, {}, {"0": {}}])
def test_items_are_an_array(items: Any) -> None:
    assert faults(items=items) == [("items",)]


@pytest.mark.parametrize("line", [None, "", 0, True, [], [["sku", "a"]]])
def test_a_line_is_an_object(line: Any) -> None:
    assert faults(items=[item(), line]) == [("items", 1)]


@pytest.mark.parametrize("field", ["sku", "quantity", "unitPrice"])
def test_every_field_of_a_line_is_required(field: str) -> None:
    line = item()
    del line[field]
    assert faults(items=[line]) == [("items", 0, field)]


@pytest.mark.parametrize("body", [None, True, 1, "text", [], [{}], [order_created_fields()]])
def test_a_body_that_is_no_object_is_refused(body: Any) -> None:
    with pytest.raises(ValidationError):
        OrderCreated.model_validate(decode(json.dumps(body).encode()))


def test_an_error_hides_what_was_sent() -> None:
    with pytest.raises(ValidationError) as caught:
        received(orderId=f"{CANARY} ", totalAmount=CANARY, items=[item(quantity=CANARY)])
    assert CANARY not in str(caught.value)
    assert CANARY not in repr(caught.value)


def test_an_order_never_changes() -> None:
    with pytest.raises(ValidationError):
        order_created().order_id = "another"  # type: ignore[misc]


def test_order_processed_is_as_the_contract_says() -> None:
    noon = datetime(2026, 1, 31, 13, 0, tzinfo=timezone(timedelta(hours=1)))
    event = OrderProcessed(order_id="order-101", idempotency_key="key", processing_timestamp=noon)
    assert json.loads(event.model_dump_json(by_alias=True)) == {
        "orderId": "order-101",
        "idempotencyKey": "key",
        "status": "PROCESSED",
        "processingTimestamp": "2026-01-31T12:00:00.000000Z",
    }


@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_timestamp_is_utc_to_the_microsecond(moment: datetime) -> None:
    event = OrderProcessed(order_id="o", idempotency_key="k", processing_timestamp=moment)
    text = json.loads(event.model_dump_json(by_alias=True))["processingTimestamp"]
    assert text.endswith("Z")
    assert datetime.fromisoformat(text) == moment


@pytest.mark.parametrize("reason", list(FailureReason))
def test_order_failed_is_as_the_contract_says(reason: FailureReason) -> None:
    event = OrderFailed(order_id="UNKNOWN", reason=reason, error_details="body: not JSON")
    assert json.loads(event.model_dump_json(by_alias=True)) == {
        "orderId": "UNKNOWN",
        "reason": reason.name,
        "errorDetails": "body: not JSON",
    }


def test_the_reasons_are_those_of_the_contract() -> None:
    assert {str(reason) for reason in FailureReason} == {
        "INVALID_JSON",
        "INVALID_PAYLOAD",
        "PAYLOAD_TOO_LARGE",
        "UNSUPPORTED_ENCODING",
        "UNSUPPORTED_TYPE",
        "UNSTORABLE",
        "IDEMPOTENCY_CONFLICT",
        "ORDER_ID_CONFLICT",
    }
