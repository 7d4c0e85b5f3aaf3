"""What the database is asked per order and per batch: counted, not timed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest
from sqlalchemy import event, text

from db.engine import Database
from db.models import Order
from order_contracts import FailureReason, OrderCreated
from service.app import Service
from service.config.settings import Settings
from service.consumer.codec import decode
from service.consumer.unit_of_work import DeadLettered, Outcome
from service.domain.decision import Accepted
from service.domain.errors import Refusal
from service.inbound import Candidate, Refused
from service.outbox.publisher import Confirmed, PublishOutcome
from tests.factories import delivery, order_created_json
from tests.harness import rows
from tests.integration.test_relay import event as outbox_event
from tests.integration.test_relay import put, relay_of


@dataclass
class Costs:
    """Statements and commits that one engine made."""

    statements: list[str] = field(default_factory=list)
    commits: int = 0

    @property
    def counted(self) -> tuple[int, int]:
        return len(self.statements), self.commits


@contextmanager
def counting(database: Database) -> Iterator[Costs]:
    costs, engine = Costs(), database.engine.sync_engine

    def on_execute(*arguments: object) -> None:
        costs.statements.append(str(arguments[2]))

    def on_commit(_: object) -> None:
        costs.commits += 1

    event.listen(engine, "before_cursor_execute", on_execute)
    event.listen(engine, "commit", on_commit)
    try:
        yield costs
    finally:
        event.remove(engine, "before_cursor_execute", on_execute)
        event.remove(engine, "commit", on_commit)


@pytest.fixture
async def service(settings: Settings, database: Database) -> Service:
    service = Service(settings)
    service.database = database
    service.intake._database = database
    return service


def candidate(number: int = 0, amount: str = "5.00") -> Candidate:
    body = order_created_json(
        orderId=f"o-{number}", idempotencyKey=f"k-{number}", totalAmount=amount
    )
    return Candidate.of(OrderCreated.model_validate(decode(body)), delivery(body))


async def take_in(service: Service, *subjects: Candidate | Refused) -> list[Outcome]:
    """Hand everything in at once and take it in as one batch."""
    waiting = [asyncio.create_task(service.intake.submit(subject)) for subject in subjects]
    await asyncio.sleep(0)
    assert await service.intake.run_once() == len(subjects)
    return await asyncio.gather(*waiting)


async def test_a_new_order_costs_three_statements_and_one_commit(
    service: Service, database: Database
) -> None:
    with counting(database) as costs:
        await take_in(service, candidate())
    assert costs.counted == (3, 1)


async def test_two_hundred_new_orders_cost_what_one_costs(
    service: Service, database: Database
) -> None:
    with counting(database) as costs:
        await take_in(service, *(candidate(number) for number in range(200)))
    assert costs.counted == (3, 1)


async def test_a_duplicate_costs_one_statement(service: Service, database: Database) -> None:
    await take_in(service, candidate())
    with counting(database) as costs:
        await take_in(service, candidate())
    assert costs.counted == (1, 1)


async def test_a_conflict_costs_four_statements_and_one_commit(
    service: Service, database: Database
) -> None:
    await take_in(service, candidate())
    with counting(database) as costs:
        await take_in(service, candidate(amount="6.00"))
    assert costs.counted == (4, 1)


async def test_a_refused_message_costs_three_statements_and_one_commit(
    service: Service, database: Database
) -> None:
    refused = Refused(Refusal(FailureReason.INVALID_JSON, "body: not JSON"), delivery(b"{"))
    with counting(database) as costs:
        await take_in(service, refused)
    assert costs.counted == (3, 1)


async def test_one_conflict_and_one_refused_among_five_hundred_cost_their_neighbours_nothing(
    service: Service, database: Database
) -> None:
    service.intake._batch_size = 500
    await take_in(service, candidate(0))
    refused = Refused(Refusal(FailureReason.INVALID_JSON, "body: not JSON"), delivery(b"{"))
    fine = [candidate(number) for number in range(1, 499)]
    with counting(database) as costs:
        outcomes = await take_in(service, candidate(0, "6.00"), refused, *fine)
    assert [type(outcome) for outcome in outcomes] == [DeadLettered] * 2 + [Accepted] * 498
    assert costs.counted == (5, 1)


async def test_one_order_that_the_database_never_takes_costs_its_neighbours_only_time(
    service: Service, database: Database
) -> None:
    service.intake._batch_size = 500
    async with database.transaction() as connection:
        await connection.execute(
            text("ALTER TABLE orders ADD CONSTRAINT never CHECK (order_id <> 'o-250')")
        )
    subjects = [candidate(number) for number in range(500)]
    waiting = [asyncio.create_task(service.intake.submit(subject)) for subject in subjects]
    await asyncio.sleep(0)
    await service.intake.run_once()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)

    outcome = outcomes.pop(250)
    assert isinstance(outcome, DeadLettered)
    assert outcome.refused.refusal.reason is FailureReason.UNSTORABLE
    assert outcomes == [Accepted()] * 499
    assert len(await rows(database, Order)) == 499


class Confirming:
    """Confirms everything at once."""

    async def publish(self, events: object) -> list[PublishOutcome]:
        return [Confirmed(each) for each in events]  # type: ignore[attr-defined]

    async def close(self) -> None: ...


@pytest.mark.parametrize("events", [1, 100])
async def test_a_claimed_batch_costs_four_statements_and_two_commits_whatever_its_size(
    service: Service, database: Database, events: int
) -> None:
    await put(database, *(outbox_event() for _ in range(events)))
    relay = relay_of(service, Confirming())
    with counting(database) as costs:
        counts = await relay.run_once()
    assert (counts.claimed, counts.published) == (events, events)
    assert costs.counted == (4, 2)


async def test_an_idle_minute_costs_one_statement_a_poll(
    service: Service, database: Database, settings: Settings
) -> None:
    relay = relay_of(service, Confirming())
    with counting(database) as costs:
        for _ in range(10):
            assert not (await relay.run_once()).claimed
    assert costs.counted == (10, 10)
    polls_a_minute = 60 / Settings.model_fields["relay_poll_seconds"].default
    # One statement and its commit a poll, and a purge's statement and commit a minute: at most two
    # round trips a second.
    assert (polls_a_minute + 1) * 2 <= 120
