"""The load is what its seed says, of the shares it is asked for, and means what it claims."""

from __future__ import annotations

from collections import Counter

from tests.faults.contract import content_of
from tests.faults.workload import (
    LARGEST_BODY,
    LARGEST_STORED,
    POISON,
    USUAL_MIX,
    Input,
    Kind,
    Mix,
    Workload,
)

COUNT = 5000
VALID = set(Kind) - set(POISON)


def drawn(seed: int, count: int = COUNT, mix: Mix = USUAL_MIX) -> list[Input]:
    workload = Workload(seed, mix)
    return [workload.next() for _ in range(count)]


def of_kind(*kinds: Kind) -> list[Input]:
    found = [each for each in drawn(1) if each.kind in kinds]
    assert found
    return found


def test_a_seed_draws_the_same_messages_again_and_another_seed_others() -> None:
    one, again, other = ([each.attempt(1) for each in drawn(seed, 500)] for seed in (1, 1, 2))
    assert one == again
    assert not {each.body for each in one} & {each.body for each in other}


def test_shares_are_those_of_the_mix() -> None:
    counts = Counter(each.kind for each in drawn(1))
    for share, kinds in (
        (USUAL_MIX.duplicates, [Kind.DUPLICATE]),
        (USUAL_MIX.conflicts, [Kind.KEY_CONFLICT, Kind.ID_CONFLICT]),
        (USUAL_MIX.poison, list(POISON)),
        (USUAL_MIX.lookalikes, [Kind.LOOKALIKE]),
    ):
        assert 0.7 * share < sum(counts[kind] for kind in kinds) / COUNT < 1.3 * share
    assert set(counts) == set(Kind)


def test_a_duplicate_says_what_an_earlier_order_said_in_other_bytes() -> None:
    before: dict[str, bytes] = {}
    duplicates = 0
    for each in drawn(1):
        body = each.attempt(1).body
        if each.kind is Kind.DUPLICATE:
            assert content_of(body) == content_of(before[each.order.order_id])
            assert body != before[each.order.order_id]
            duplicates += 1
        if each.kind in {Kind.NEW, Kind.LOOKALIKE}:
            before[each.order.order_id] = body
    assert duplicates


def test_ids_and_keys_are_new_but_for_what_repeats_or_conflicts() -> None:
    new = of_kind(Kind.NEW, Kind.LOOKALIKE)
    assert len({each.order.order_id for each in new}) == len(new)
    assert len({each.order.key for each in new}) == len(new)
    by_id = {each.order.order_id: each.order for each in new}
    for each in of_kind(Kind.KEY_CONFLICT):
        first = by_id[each.order.order_id]
        assert (each.order.key, each.order.cents) != (first.key, first.cents)
    for each in of_kind(Kind.ID_CONFLICT):
        assert each.order.key != by_id[each.order.order_id].key


def test_a_lookalike_differs_from_an_earlier_order_in_case_alone() -> None:
    ids = [each.order.order_id for each in of_kind(Kind.NEW, Kind.LOOKALIKE)]
    folded = Counter(each.casefold() for each in ids)
    assert max(folded.values()) == 2
    assert len(ids) == len(set(ids))


def test_an_order_is_published_again_with_the_same_bytes_and_another_trace() -> None:
    for each in of_kind(Kind.NEW, Kind.LOOKALIKE, Kind.DUPLICATE):
        first, second = each.attempt(1), each.attempt(2)
        assert first.body == second.body
        assert first.trace != second.trace


def test_what_must_be_refused_has_bytes_of_its_own_at_each_attempt() -> None:
    for each in of_kind(Kind.KEY_CONFLICT, Kind.ID_CONFLICT, *POISON):
        assert each.attempt(1).body != each.attempt(2).body


def test_poison_is_what_its_reason_says() -> None:
    for each in of_kind(*POISON):
        attempt = each.attempt(1)
        assert attempt.reason == POISON[each.kind]
        assert (attempt.content_encoding is not None) == (each.kind is Kind.ENCODED)
        assert (len(attempt.body) > LARGEST_BODY) == (attempt.reason == "PAYLOAD_TOO_LARGE")
        assert (len(attempt.body) > LARGEST_STORED) == (each.kind is Kind.FAR_TOO_LARGE)


def test_a_valid_message_says_what_its_order_says() -> None:
    for each in of_kind(*VALID):
        content = content_of(each.attempt(1).body)
        assert (content.order_id, content.key) == (each.order.order_id, each.order.key)
        assert content.amount * 100 == each.order.cents
        assert len(content.items) == len(each.order.lines)
