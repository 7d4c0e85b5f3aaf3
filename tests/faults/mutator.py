"""Hypothesis changes valid bodies, and each comes out as an order or as a refusal; nothing else.

Only the pure parts of the service are asked, in this process: decoding, validation, the refusal's
words, the fingerprint, and what a delivery says of its properties. What comes out is compared with
a second reading of the contract (`tests.faults.oracle`).

python -m tests.faults.mutator --mutations 1000000 --seed 1
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import count, islice, repeat
from typing import Annotated

import hypothesis
import typer
from hypothesis import HealthCheck, Phase, Verbosity, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, ValidationError

from order_contracts import OrderCreated
from service.consumer.codec import decode
from service.consumer.subscriber import readable_order_id, refusal_of
from service.domain.errors import Refusal
from service.domain.fingerprint import fingerprint
from tests.faults.corpus.case import Dead, Line, Stored
from tests.faults.corpus.series import Verbatim, body_of
from tests.faults.edits import BASES, Edit, edited
from tests.faults.oracle import verdict
from tests.faults.vocabulary import says_only_rules

NUMBERS = st.integers(0, 2**20)
EDITS = st.lists(
    st.builds(Edit, st.integers(0, 4 * 63 - 1), NUMBERS, NUMBERS), min_size=1, max_size=6
)
ENCODINGS = st.sampled_from([None] * 80 + ["", " ", "gzip", "identity", "utf-8"])
MAX_BODY = 2 * 262_144
EXAMPLES_PER_RUN = 2_000


class Broken(AssertionError):  # noqa: N818 - what the promise is
    """The service does not do what it promises."""


class Arguments(BaseModel):
    """What FastStream makes of the handler's one parameter."""

    model_config = ConfigDict(hide_input_in_errors=True)
    order: OrderCreated


def outcome(body: bytes, content_encoding: str | None) -> Stored | Dead:
    """What the service makes of it, as a new message.

    Raises:
        Broken: a refusal says more than fields and rules.
    """
    try:
        value = decode(body, content_encoding)
        order = Arguments.model_validate({"order": value}).order
    except Refusal as refusal:
        return _dead(refusal, None)
    except ValidationError as error:
        return _dead(refusal_of(error), readable_order_id(value))
    return _stored(order)


def _dead(refusal: Refusal, order_id: str | None) -> Dead:
    if not says_only_rules(refusal.details):
        raise Broken(f"it says more than fields and rules: {refusal.details!r}")
    return Dead(str(refusal.reason), order_id or "UNKNOWN")


def _stored(order: OrderCreated) -> Stored:
    lines = tuple(Line(item.sku, item.quantity, item.unit_price) for item in order.items)
    return Stored(order.order_id, order.user_id, order.total_amount, order.idempotency_key, lines)


def check(body: bytes, content_encoding: str | None = None) -> str:
    """What became of it, in a word.

    Raises:
        Broken: it is not what the contract says.
    """
    found = outcome(body, content_encoding)
    expected = verdict(body, content_encoding)
    if expected is not None and found != expected:
        raise Broken(f"{found}, and the contract says {expected}")
    if isinstance(found, Dead):
        return found.reason
    _check_again(found, fingerprint(OrderCreated.model_validate(decode(body))))
    return "order"


def _check_again(order: Stored, first: bytes) -> None:
    """Written down anew, it is a valid order, the same one."""
    written = body_of(
        {
            "items": [
                {
                    "unitPrice": Verbatim(each.unit_price),
                    "quantity": each.quantity,
                    "sku": each.sku,
                }
                for each in order.items
            ],
            "idempotencyKey": order.idempotency_key,
            "totalAmount": f"{order.total_amount:.2f}",
            "userId": order.user_id,
            "orderId": order.order_id,
        }
    )
    if verdict(written) not in {order, None}:
        raise Broken(f"written down anew it is {verdict(written)}")
    if fingerprint(OrderCreated.model_validate(decode(written))) != first:
        raise Broken("written down anew it has another fingerprint")


def mutate(base: bytes, edits: Sequence[Edit], content_encoding: str | None) -> Iterator[str]:
    """Change a body step by step; says of each step what became of it.

    Raises:
        Broken: with the body that shows it.
    """
    body = base
    for edit in edits:
        body = edited(body, edit)[:MAX_BODY]
        try:
            yield check(body, content_encoding)
        except Exception as error:
            shown = f"{type(error).__name__}: {error}\n{body[:3000]!r}, {content_encoding!r}"
            raise Broken(shown) from error


def run(seed: int, examples: int) -> Counter[str]:
    """As many examples as Hypothesis makes of this seed; returns how often each outcome came."""
    outcomes: Counter[str] = Counter()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(st.sampled_from(BASES), EDITS, ENCODINGS)
    def every_mutation_is_an_order_or_a_refusal(
        base: bytes, edits: list[Edit], content_encoding: str | None
    ) -> None:
        outcomes.update(mutate(base, edits, content_encoding))

    every_mutation_is_an_order_or_a_refusal()
    return outcomes


def main(
    *,
    mutations: Annotated[int, typer.Option(min=1, help="At least so many.")] = 10_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same mutations.")] = 1,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
) -> None:
    """Mutate, in worker processes, and print how often each outcome came."""
    started = time.monotonic()
    outcomes: Counter[str] = Counter()
    seeds = (seed * 1_000_000 + number for number in count())
    with ProcessPoolExecutor(workers) as pool:
        while outcomes.total() < mutations:
            for found in pool.map(run, islice(seeds, workers * 4), repeat(EXAMPLES_PER_RUN)):
                outcomes.update(found)
            print(f"{outcomes.total():,} mutations", file=sys.stderr, flush=True)
    print(f"seed {seed}: {outcomes.total():,} mutations in {time.monotonic() - started:.0f} s")
    for name, number in outcomes.most_common():
        print(f"{number:>12,}  {name}")


if __name__ == "__main__":
    typer.run(main)
