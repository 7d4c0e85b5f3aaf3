"""The corpus of bad input itself: how much it is, that it stays the same, and what it expects."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.faults.corpus import beginnings, corpus
from tests.faults.corpus.amqp import marshal
from tests.faults.corpus.case import CANARY, CANARY_DIGITS, Case, Dead, Stored
from tests.faults.oracle import verdict

DECIDED_BY_CONTENT = {
    "INVALID_JSON",
    "INVALID_PAYLOAD",
    "PAYLOAD_TOO_LARGE",
    "UNSUPPORTED_ENCODING",
}


def test_it_has_at_least_2000_messages_in_40_classes() -> None:
    kinds = Counter(case.kind for case in corpus())
    assert kinds.total() >= 2000
    assert len(kinds) >= 40
    assert min(kinds.values()) >= 3


def test_it_is_the_same_each_time() -> None:
    first = corpus()
    corpus.cache_clear()
    assert corpus() == first


def test_no_two_messages_have_the_same_body() -> None:
    counts = Counter(case.body for case in (*beginnings(), *corpus()))
    assert [body[:80] for body, count in counts.items() if count > 1] == []


def test_no_two_orders_share_an_id_or_a_key() -> None:
    orders = [
        case.expected for case in (*beginnings(), *corpus()) if isinstance(case.expected, Stored)
    ]
    for name in ("order_id", "idempotency_key"):
        counts = Counter(getattr(order, name) for order in orders)
        assert [each for each, count in counts.items() if count > 1] == []


def test_every_message_carries_the_canary() -> None:
    def carries(case: Case) -> bool:
        everything = case.body + marshal(case.properties)
        return any(canary.encode() in everything for canary in (CANARY, CANARY_DIGITS))

    silent = [str(case) for case in corpus() if not carries(case)]
    assert len(silent) < 60, silent


def content_encoding(case: Case) -> str | None:
    raw = case.properties.get("content_encoding")
    return raw[1:].decode() if raw else None


@pytest.mark.parametrize("kind", sorted({case.kind for case in corpus()}))
def test_a_second_reading_of_the_contract_expects_the_same(kind: str) -> None:
    disagreements = []
    for case in corpus():
        by_content = isinstance(case.expected, Stored) or (
            isinstance(case.expected, Dead) and case.expected.reason in DECIDED_BY_CONTENT
        )
        if case.kind != kind or not by_content:
            continue
        found = verdict(case.body, content_encoding(case))
        if found is not None and found != case.expected:
            disagreements.append(f"{case}: {found}, not {case.expected}"[:300])
    assert disagreements == []
