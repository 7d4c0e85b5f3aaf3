"""Each message of the corpus ends where the contract says, and costs nobody else anything."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import Any

import pytest
from pamqp import decode

from tests.faults.corpus import beginnings, corpus
from tests.faults.corpus.case import CANARY, CANARY_DIGITS, Case, Dead, Line, Repeated, Stored
from tests.faults.corpus_run import Evidence, Heard, mixed, play
from tests.faults.vocabulary import says_only_rules
from tests.harness import settings_for
from tests.servers import AnyDatabase, AnyRabbit

pytestmark = pytest.mark.servers

ENDED_BY_SIGTERM = (0, -signal.SIGTERM, 128 + signal.SIGTERM)
MAX_STORED = 1024 * 1024
# What the service says when all goes well.
USUAL = {"starting", "configuration", "database-ready", "consuming", "dead-lettered", "stopped"}


@pytest.fixture(scope="module")
def evidence(database_server: AnyDatabase, rabbit_server: AnyRabbit) -> Iterator[Evidence]:
    """One run of the whole corpus, judged by all tests of this module."""
    name = f"orders-corpus-{secrets.token_hex(4)}"
    database_server.revive()
    rabbit_server.revive()
    database_url = database_server.create_database(name.replace("-", "_"))
    mq_url = rabbit_server.create_vhost(name)
    settings = settings_for(
        database_url=database_url,
        mq_url=mq_url,
        log_level="DEBUG",
        # So that no link is lost to a busy machine: here it can only be to a message.
        mq_heartbeat_seconds=60,
    )
    with pytest.MonkeyPatch.context() as client:
        # Copies are read as other clients read them, whatever ran in this process before.
        client.setitem(decode.METHODS, "table", decode.field_table)
        yield asyncio.run(play(settings, rabbit_server, name, beginnings(), mixed(corpus())))
    database_server.drop_database(name.replace("-", "_"))
    rabbit_server.delete_vhost(name)


@pytest.fixture(scope="module")
def by_body(evidence: Evidence) -> dict[bytes, Case]:
    return {case.body: case for case in evidence.sent}


def stored(row: Any) -> Stored:
    return Stored(
        row.order_id,
        row.user_id,
        row.total_amount,
        row.idempotency_key,
        tuple(
            Line(each["sku"], each["quantity"], Decimal(each["unitPrice"])) for each in row.items
        ),
    )


def assert_same(expected: Iterable[Any], found: Iterable[Any]) -> None:
    """Each as often as expected; the error has a line for each that is missing or too many."""
    wanted, there = Counter(expected), Counter(found)
    missing = [f"missing {count}: {each!r:.300}" for each, count in (wanted - there).items()]
    surplus = [f"too many {count}: {each!r:.300}" for each, count in (there - wanted).items()]
    told = "\n".join([*missing, *surplus])
    assert not told, told


def test_what_is_valid_after_all_is_an_order_field_by_field(evidence: Evidence) -> None:
    expected = [case.expected for case in evidence.expecting(Stored)]
    assert_same(expected, map(stored, evidence.orders))
    assert {row.status for row in evidence.orders} == {"PROCESSED"}


def test_every_order_has_one_event(evidence: Evidence) -> None:
    expected = Counter(
        (case.expected.order_id, case.expected.idempotency_key, case.correlation)
        for case in evidence.sent
        if isinstance(case.expected, Stored)
    )
    found = Counter[Any]()
    without_correlation = {key[:2] for key in expected if key[2] is None}
    for event in evidence.processed:
        said = json.loads(event.body)
        assert said["status"] == "PROCESSED"
        names = (said["orderId"], said["idempotencyKey"])
        found[*names, None if names in without_correlation else event.correlation_id] += 1
    assert_same(expected, found)


def test_everything_else_is_one_dead_letter_with_its_reason_and_its_bytes(
    evidence: Evidence, by_body: dict[bytes, Case]
) -> None:
    expected = Counter(
        (str(case), case.expected) for case in evidence.sent if isinstance(case.expected, Dead)
    )
    bodies = {copy.message_id: copy.body for copy in evidence.copies}
    found = Counter[Any]()
    for row in evidence.dead_letters:
        body = bodies.get(row.dead_letter_id, b"no copy")
        case = by_body.get(body)
        found[str(case), Dead(row.reason, row.order_id or "UNKNOWN")] += 1
        assert row.body == (body if len(body) <= MAX_STORED else b"")
    assert_same(expected, found)


def test_the_dead_letter_queue_has_one_copy_of_each_with_its_bytes_and_reason(
    evidence: Evidence, by_body: dict[bytes, Case]
) -> None:
    expected = Counter(
        (str(case), case.expected.reason)
        for case in evidence.sent
        if isinstance(case.expected, Dead)
    )
    found = Counter(
        (str(by_body.get(copy.body)), copy.headers["x-failure-reason"]) for copy in evidence.copies
    )
    assert_same(expected, found)
    rows = Counter(row.dead_letter_id for row in evidence.dead_letters)
    assert_same(rows, Counter(copy.message_id for copy in evidence.copies))
    assert {copy.headers["x-original-queue"] for copy in evidence.copies} == {"order_created_queue"}


def test_a_copy_has_the_headers_of_its_message(
    evidence: Evidence, by_body: dict[bytes, Case]
) -> None:
    others = []
    for copy in evidence.copies:
        case = by_body[copy.body]
        if not case.headers_kept or "headers" not in case.properties:
            continue
        _, sent = decode.field_table(case.properties["headers"])
        others += [
            f"{case}: {name!r:.60} is {copy.headers.get(name, 'missing')!r:.60}, not {value!r:.60}"
            for name, value in sent.items()
            if name not in copy.headers or copy.headers[name] != value
        ]
    assert not others, "\n".join(others)


def test_every_dead_letter_has_one_failed_event_that_says_the_same(evidence: Evidence) -> None:
    correlations = {
        case.correlation for case in evidence.expecting(Dead) if case.correlation is not None
    }

    def told(reason: str, order_id: str, correlation: str | None) -> tuple[str, ...]:
        return reason, order_id, correlation if correlation in correlations else "another"

    expected = Counter(
        told(case.expected.reason, case.expected.order_id, case.correlation)
        for case in evidence.sent
        if isinstance(case.expected, Dead)
    )
    said = [(json.loads(event.body), event.correlation_id) for event in evidence.failed]
    found = Counter(told(each["reason"], each["orderId"], by) for each, by in said)
    assert_same(expected, found)
    details = Counter(each["errorDetails"] for each, _ in said)
    copied = Counter(copy.headers["x-failure-details"] for copy in evidence.copies)
    assert_same(copied, details)
    assert all(details)


def test_what_is_there_already_has_no_effect(evidence: Evidence) -> None:
    repeated = len(evidence.expecting(Repeated))
    assert f'orders_messages_total{{outcome="duplicate"}} {repeated:.1f}' in evidence.metrics
    assert evidence.decided == len(evidence.sent), "each is decided once, none a second time"


def test_nothing_is_left_and_nothing_was_tried_twice(evidence: Evidence) -> None:
    assert evidence.left_over == 0
    assert [event.event_id for event in evidence.events if not event.published_at] == []
    assert {event.attempts for event in evidence.events} == {0}


def test_the_process_and_its_links_stay(evidence: Evidence) -> None:
    unusual = [str(fields) for fields in evidence.told if fields["message"] not in USUAL]
    assert not unusual, "\n".join(unusual)
    assert evidence.count("consuming") == 1
    assert evidence.exit_status in ENDED_BY_SIGTERM
    if evidence.links_before is not None and evidence.links_after is not None:
        assert evidence.links_before
        assert evidence.links_before <= evidence.links_after


def test_no_value_of_a_message_is_in_a_log_a_metric_or_an_explanation(
    evidence: Evidence,
) -> None:
    def quoted(text: str) -> bool:
        return CANARY in text or CANARY_DIGITS in text

    details = [row.details for row in evidence.dead_letters]
    details += [json.loads(event.body)["errorDetails"] for event in evidence.failed]
    details += [copy.headers["x-failure-details"] for copy in evidence.copies]
    assert evidence.count("dead-lettered") == len(evidence.dead_letters)
    assert [each for each in details if quoted(each)] == []
    assert [each for each in evidence.lines if quoted(each)] == []
    assert [each for each in evidence.metrics.splitlines() if quoted(each)] == []


def test_an_explanation_names_fields_and_rules_and_a_label_a_reason(evidence: Evidence) -> None:
    said = [json.loads(event.body) for event in evidence.failed]
    details = {each["errorDetails"] for each in said if "CONFLICT" not in each["reason"]}
    assert [each for each in details if not says_only_rules(each)] == []
    labels = {line for line in evidence.metrics.splitlines() if line.startswith("orders_dead")}
    reasons = {case.expected.reason for case in evidence.sent if isinstance(case.expected, Dead)}
    assert len(labels) <= 2 * len(reasons)  # a count and the time of its start


def test_a_copy_is_told_apart_by_its_id(evidence: Evidence) -> None:
    def ids(heard: list[Heard]) -> Counter[str | None]:
        return Counter(each.message_id for each in heard)

    counts = ids(evidence.processed) + ids(evidence.failed) + ids(evidence.copies)
    assert [each for each, count in counts.items() if count > 1 or each is None] == []
