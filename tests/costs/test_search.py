"""No message costs more than five plain orders of its size: asked of what a search finds."""

from __future__ import annotations

import random

import pytest
from pamqp import decode

from service.rabbitmq import properties
from service.rabbitmq.field_table import Table
from tests.costs.genes import Genes, known_worst
from tests.costs.measure import LIMIT, cost_of, peak_bytes, plain_order
from tests.costs.search import Search
from tests.costs.way import Message

# `make costs` goes on from here.
STEPS = 12


@pytest.mark.parametrize("seed", [1])
def test_no_message_that_a_search_finds_costs_more_than_its_size_allows(seed: int) -> None:
    search = Search(random.Random(seed))
    for _ in range(len(known_worst()) + STEPS):
        search.run_once()

    ((genes, cost),) = search.worst(1)
    assert cost.worst <= LIMIT, f"{cost} of {genes}"


@pytest.mark.parametrize("size", [500, 10_000, 100_000, 262_144, 1_048_576])
def test_what_a_plain_order_costs_itself_is_once(size: int) -> None:
    assert cost_of(plain_order(size)).memory == pytest.approx(1, rel=0.2)


def test_the_search_sees_headers_that_are_read_without_a_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unbounded(data: bytes) -> Table:
        consumed, fields = decode.field_table(data)
        return Table.of(dict(fields), consumed)

    monkeypatch.setattr(properties, "read_table", unbounded)
    wide = Genes(size=2000, header_size=90_000, header_value=(b"T\0\0\0\0\x60\0\0\0",))

    assert cost_of(wide.message()).cpu > LIMIT


def test_a_peak_is_that_of_the_way_and_not_of_the_message() -> None:
    assert peak_bytes(Message(b"\xff" * 100)) < 100_000
