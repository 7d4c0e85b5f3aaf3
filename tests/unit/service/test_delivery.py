"""A delivery: told from a redelivery, described as JSON, and fit to be published again."""

from __future__ import annotations

import json
import logging
import struct
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pamqp.decode
import pamqp.encode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.rabbitmq.delivery import MAX_HEADER_DEPTH, Delivery, from_json, to_json
from tests.factories import delivery

TRACE_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

# Every type a table can hold on the wire, by its letter there.
FIELDS = {
    "boolean t": (b"t\x01", True),
    "int8 b": (b"b\xff", -1),
    "uint8 B": (b"B\xff", 255),
    "int16 s": (b"s\x80\x00", -(2**15)),
    "uint16 u": (b"u\xff\xff", 2**16 - 1),
    "int32 I": (b"I\x80\x00\x00\x00", -(2**31)),
    "uint32 i": (b"i\xff\xff\xff\xff", 2**32 - 1),
    "int64 l": (b"l\x80" + b"\x00" * 7, -(2**63)),
    "int64 L": (b"L\x7f" + b"\xff" * 7, 2**63 - 1),
    "float f": (b"f" + struct.pack(">f", 0.1), struct.unpack(">f", struct.pack(">f", 0.1))[0]),
    "double d": (b"d" + struct.pack(">d", 0.5), 0.5),
    "infinity d": (b"d" + struct.pack(">d", float("inf")), float("inf")),
    "decimal D": (b"D\x02" + struct.pack(">i", -9999), Decimal("-99.99")),
    "text S": (b"S\x00\x00\x00\x03\xc3\xa9a", "\u00e9a"),
    "bytes S": (b"S\x00\x00\x00\x02\xff\x00", b"\xff\x00"),
    "bytes x": (b"x\x00\x00\x00\x02\xff\x00", bytearray(b"\xff\x00")),
    "array A": (b"A\x00\x00\x00\x04t\x01b\x02", [True, 2]),
    "table F": (b"F\x00\x00\x00\x04\x01at\x01", {"a": True}),
    "timestamp T": (b"T" + struct.pack(">Q", 1769860800), datetime(2026, 1, 31, 12, tzinfo=UTC)),
    "void V": (b"V", None),
}

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(width=32, allow_nan=False)
    | st.text(st.characters(codec="utf-8"), max_size=20)
    | st.binary(max_size=20).map(bytearray)
    | st.decimals(-20000, 20000, places=4)
    | st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1)).map(  # noqa: DTZ001
        lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
    )
)
_NAMES = st.text("ade$-", min_size=1, max_size=5) | st.sampled_from(["$int", "$bytes", "$table"])
HEADERS = st.dictionaries(
    _NAMES,
    st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def published(each: Delivery) -> dict[str, Any]:
    """The headers as another client reads them: out of the database, through a frame. Without the
    content type, which each delivery has."""
    stored = json.loads(json.dumps(each.headers_to_publish()))
    frame = pamqp.encode.field_table(from_json(stored))
    headers = pamqp.decode.field_table(frame)[1]
    assert headers.pop("x-original-content-type") == each.raw.content_type
    return headers


@pytest.mark.parametrize("kind", FIELDS)
def test_every_type_of_a_header_survives_the_database_and_the_next_frame(kind: str) -> None:
    encoded, value = FIELDS[kind]
    assert pamqp.decode.embedded_value(encoded)[1] == value
    assert from_json(json.loads(json.dumps(to_json(value)))) == value
    assert published(delivery(b"", headers={"h": value})) == {"h": value}


@given(HEADERS)
def test_any_headers_come_out_of_json_as_they_went_in(headers: dict[str, Any]) -> None:
    for value in headers.values():
        assert from_json(json.loads(json.dumps(to_json(value)))) == value


@given(HEADERS)
def test_any_headers_can_be_published_again(headers: dict[str, Any]) -> None:
    expected = {f"x-original-{k}" if k[0] == "$" else k: v for k, v in headers.items()}
    assert published(delivery(b"", headers=headers)) == expected


@pytest.mark.parametrize(
    "table",
    [
        {"$decimal": "no number"},
        {"$decimal": "1E+999999999"},
        {"$int": "9" * 5000},
        {"$bytes": "!"},
        {"$timestamp": "yesterday"},
        {"$float": 1},
        {"$int": "1", "other": 2},
        {"$table": {"$int": "1"}},
    ],
)
def test_a_sender_cannot_write_our_description_of_a_type(table: dict[str, Any]) -> None:
    each = delivery(b"", headers={"h": table})
    assert from_json(json.loads(json.dumps(to_json(table)))) == table
    assert published(each) == {"h": table}
    name, text = next(iter(table.items()))
    assert published(delivery(b"", headers={name: text})) == {f"x-original-{name}": text}


def test_what_amqp_or_json_cannot_hold_is_named_and_breaks_nothing() -> None:
    assert to_json(2**70) == {"$int": str(2**70)}
    assert to_json(object()) == {"$text": "object"}
    each = delivery(b"", headers={"a": 2**70, "c": Decimal("1e-300"), "d": "kept"})
    assert published(each) == {
        "d": "kept",
        "x-original-headers": "some kept in the database only: not encodable",
    }
    assert set(each.headers()) == {"a", "c", "d"}


@pytest.mark.parametrize("wrap", [lambda inner: [inner], lambda inner: {"$a": inner}])
def test_headers_nested_deeper_than_a_json_column_takes_are_cut(wrap: Any) -> None:
    value: Any = 1
    for _ in range(400):
        value = wrap(value)
    each = delivery(b"", headers={"h": value})
    text = json.dumps(each.headers())
    assert text.count("[") + text.count("{") <= 2 * MAX_HEADER_DEPTH + 2 < 32
    assert "nested too deep" in text
    assert published(each)
    assert each.digest() == each.digest()


@pytest.mark.parametrize("name", ["CC", "BCC", "cc", "Bcc"])
def test_a_header_that_routes_is_never_published_under_its_own_name(name: str) -> None:
    headers = published(delivery(b"", headers={name: ["stolen"], "kept": 1}))
    assert headers == {f"x-original-{name}": ["stolen"], "kept": 1}


def test_what_the_broker_added_is_not_published_as_the_senders() -> None:
    headers = {"x-death": [{"count": 1}], "x-delivery-count": 3, "kept": 1}
    assert published(delivery(b"", headers=headers)) == {"kept": 1}


def test_headers_too_large_for_a_frame_stay_in_the_database() -> None:
    each = delivery(b"", headers={f"h{n}": "x" * 1000 for n in range(100)})
    assert published(each) == {"x-original-headers": "kept in the database only: too large"}
    assert len(each.headers()) == 100


@pytest.mark.parametrize("nest", [lambda names: names, lambda names: {"a": [names]}])
def test_a_header_name_that_would_be_cut_off_is_not_published_and_not_logged(
    nest: Any, caplog: pytest.LogCaptureFixture
) -> None:
    headers = nest({"c4nary" * 30: 1})
    with caplog.at_level(logging.DEBUG):
        assert published(delivery(b"", headers=headers)) == {
            "x-original-headers": "some kept in the database only: not encodable"
        }
    assert caplog.records == []


def test_the_message_id_of_the_original_travels_as_a_header() -> None:
    assert published(delivery(b"", message_id="m-1")) == {"x-original-message-id": "m-1"}


def test_type_and_content_type_of_the_original_travel_even_without_its_headers() -> None:
    each = delivery(b"", headers={"h": "x" * 100_000}, type="OrderCreated")
    assert published(each) == {
        "x-original-headers": "kept in the database only: too large",
        "x-original-type": "OrderCreated",
    }


PROPERTIES: dict[str, Any] = {
    "content_type": "text/plain",
    "content_encoding": "gzip",
    "delivery_mode": 2,
    "priority": 5,
    "correlation_id": "c-1",
    "reply_to": "r-1",
    "expiration": 1.5,
    "message_id": "m-1",
    "timestamp": datetime(2026, 1, 31, 12, tzinfo=UTC),
    "type": "OrderCreated",
    "user_id": "u-1",
    "app_id": "a-1",
}


def test_a_digest_is_the_same_when_the_message_is_delivered_again() -> None:
    first = delivery(b"{}", headers={"h": 1}, **PROPERTIES)
    again = delivery(
        b"{}",
        redelivered=True,
        headers={"x-delivery-count": 1, "x-acquired-count": 2, "h": 1},
        **PROPERTIES,
    )
    assert first.digest() == again.digest()
    assert len(first.digest()) == 32


@pytest.mark.parametrize("name", PROPERTIES)
def test_a_digest_is_another_for_any_other_property(name: str) -> None:
    digests = {
        delivery(b"{}", **properties).digest()
        for properties in (
            PROPERTIES,
            PROPERTIES | {name: None},
            PROPERTIES | {name: "other"},
        )
    }
    assert len(digests) == 3


def test_a_digest_is_another_for_another_body_or_another_header() -> None:
    digests = {
        delivery(b"{}").digest(),
        delivery(b"{} ").digest(),
        delivery(b"").digest(),
        delivery(b"{}", headers={"h": 1}).digest(),
        delivery(b"{}", headers={"h": "1"}).digest(),
        delivery(b"{}", headers={"h": True}).digest(),
        delivery(b"{}", headers={"h": None}).digest(),
        delivery(b"{}", headers={"h": b"\xff"}).digest(),
        delivery(b"{}", headers={"H": 1}).digest(),
    }
    assert len(digests) == 9


def test_the_order_of_headers_does_not_count() -> None:
    one = delivery(b"", headers={"a": 1, "b": 2}).digest()
    assert one == delivery(b"", headers={"b": 2, "a": 1}).digest()


def test_a_delivery_is_the_first_one_where_the_broker_does_not_say_otherwise() -> None:
    assert delivery(b"").first


def test_a_redelivery_is_never_the_first_one() -> None:
    assert not delivery(b"", redelivered=True).first


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({}, None),
        ({"correlation_id": "c"}, "c"),
        ({"message_id": "m"}, "m"),
        ({"correlation_id": "c", "message_id": "m"}, "c"),
        ({"correlation_id": "", "message_id": "m"}, "m"),
    ],
)
def test_a_message_without_a_correlation_id_is_correlated_by_its_message_id(
    properties: dict[str, Any], expected: str | None
) -> None:
    assert delivery(b"", **properties).correlation_id == expected


def test_a_well_formed_trace_context_is_carried_over() -> None:
    headers = {"traceparent": TRACE_PARENT, "tracestate": "vendor=value", "baggage": "x"}
    assert delivery(b"", headers=headers).trace == {
        "traceparent": TRACE_PARENT,
        "tracestate": "vendor=value",
    }


@pytest.mark.parametrize(
    "parent",
    [
        None,
        1,
        b"00",
        "",
        TRACE_PARENT.upper(),
        f"{TRACE_PARENT}\n",
        f" {TRACE_PARENT}",
        TRACE_PARENT.replace("00-", "ff-"),
        TRACE_PARENT.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        TRACE_PARENT.replace("b7ad6b7169203331", "0" * 16),
        TRACE_PARENT[:-1],
        [TRACE_PARENT],
    ],
)
def test_a_malformed_trace_context_is_dropped(parent: Any) -> None:
    assert delivery(b"", headers={"traceparent": parent, "tracestate": "a=b"}).trace == {}


@pytest.mark.parametrize("state", [None, 1, "\u00e9=1", "a=" + "b" * 511])
def test_a_trace_state_that_is_not_usable_is_dropped_alone(state: Any) -> None:
    headers = {"traceparent": TRACE_PARENT, "tracestate": state}
    assert delivery(b"", headers=headers).trace == {"traceparent": TRACE_PARENT}
