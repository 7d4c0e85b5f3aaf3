"""However a valid body is changed, it is an order or a refusal: as the contract says, no more."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.faults.corpus import corpus
from tests.faults.edits import BASES, Edit, edited
from tests.faults.mutator import EDITS, ENCODINGS, Broken, check, mutate, run
from tests.faults.property_mutator import PROPERTIES, check_properties
from tests.faults.vocabulary import says_only_rules


@pytest.mark.parametrize("base", BASES)
def test_what_is_mutated_is_valid_at_first(base: bytes) -> None:
    assert check(base) == "order"


@settings(max_examples=2000)
@given(st.sampled_from(BASES), EDITS, ENCODINGS)
def test_a_changed_order_is_an_order_or_a_refusal_as_the_contract_says(
    base: bytes, edits: list[Edit], content_encoding: str | None
) -> None:
    assert len(list(mutate(base, edits, content_encoding))) == len(edits)


@settings(max_examples=1000)
@given(st.sampled_from([case.body for case in corpus() if len(case.body) < 4096]), EDITS)
def test_a_changed_message_of_the_corpus_is_one_too(base: bytes, edits: list[Edit]) -> None:
    assert len(list(mutate(base, edits, None))) == len(edits)


@settings(max_examples=1000)
@given(PROPERTIES, st.binary(max_size=20))
def test_whatever_its_properties_are_a_message_can_be_kept_and_passed_on(
    properties: dict[str, bytes], body: bytes
) -> None:
    check_properties(properties, body)


def test_the_same_seed_makes_the_same_mutations() -> None:
    assert run(7, 50) == run(7, 50)


def test_every_kind_of_change_changes_something() -> None:
    (base, *_) = BASES
    for kind in range(4 * 63):
        assert any(edited(base, Edit(kind, number, number)) != base for number in range(40)), kind


def test_mutations_reach_every_outcome() -> None:
    outcomes = run(1, 400)
    assert {"order", "INVALID_JSON", "INVALID_PAYLOAD", "UNSUPPORTED_ENCODING"} <= set(outcomes)


@pytest.mark.parametrize(
    "details",
    [
        "totalAmount: 12.34 is too much",
        "body: not JSON at line 1, column 2: abc",
        "secret: Field required",
        "items[0].secret: Field required",
        "",
    ],
)
def test_an_explanation_that_quotes_is_noticed(details: str) -> None:
    assert not says_only_rules(details)


def test_a_service_that_disagrees_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.faults.mutator.verdict", lambda *_: check)
    with pytest.raises(Broken, match="the contract says"):
        check(BASES[0])
