"""Log lines: one each, whatever the values hold; and the metrics' names."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest

from service.observability import Action, JsonFormatter, Metrics, TextFormatter, log

BREAKS = "a\nb\rc\x0bd\x0ce\x1cf\x85g\u2028h\u2029i\x1b[31mj\tk"
FORMATTERS = [TextFormatter(), JsonFormatter()]


def record(message: str = "queue-differs", **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("orders", logging.WARNING, "f", 1, "%s", (message,), None)
    made.created = 1769860800.25
    made.fields = fields
    return made


def test_a_line_says_when_how_bad_who_what_and_its_fields() -> None:
    line = TextFormatter().format(
        record(queue="orders", why="it is down", attempt=3, waits=0.12345)
    )
    assert line == (
        '2026-01-31T12:00:00.250Z WARNING orders queue-differs queue=orders why="it is down" '
        "attempt=3 waits=0.123"
    )


def test_a_line_of_json_says_the_same() -> None:
    assert json.loads(JsonFormatter().format(record(queue="orders", attempt=3))) == {
        "time": "2026-01-31T12:00:00.250+00:00",
        "level": "WARNING",
        "logger": "orders",
        "message": "queue-differs",
        "queue": "orders",
        "attempt": 3,
    }


@pytest.mark.parametrize("formatter", FORMATTERS)
@given(text=st.text() | st.just(BREAKS))
def test_no_value_and_no_message_ever_ends_the_line(
    formatter: logging.Formatter, text: str
) -> None:
    for line in (formatter.format(record(value=text)), formatter.format(record(text))):
        assert len(line.splitlines()) == 1
        assert "\x1b" not in line


@pytest.mark.parametrize("value", ["", " ", "two words", "a\nb"])
def test_a_value_that_is_not_one_word_is_quoted(value: str) -> None:
    assert TextFormatter().format(record(v=value)).endswith(f" v={json.dumps(value)}")


@pytest.mark.parametrize("formatter", FORMATTERS)
def test_a_traceback_is_shown(formatter: logging.Formatter) -> None:
    made = record()
    error = LookupError("nothing there")
    made.exc_info = (LookupError, error, None)
    assert "LookupError" in formatter.format(made)


def test_what_json_has_no_type_for_is_text() -> None:
    assert json.loads(JsonFormatter().format(record(why=ValueError("x"))))["why"] == "x"


def test_a_log_record_is_an_action_of_the_vocabulary(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "orders"):
        log(Action.CONSUMING, queue="q")
    (logged,) = caplog.records
    assert (logged.getMessage(), logged.levelno) == ("consuming", logging.INFO)
    assert logged.fields == {"queue": "q"}  # type: ignore[attr-defined]


def test_every_action_is_one_word_of_its_own() -> None:
    assert all(action.replace("-", "").isalpha() and action.islower() for action in Action)
    assert len(set(Action)) == len(Action.__members__)


def test_two_services_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.messages.labels("accepted").inc()
    assert b'orders_messages_total{outcome="accepted"} 1.0' in generate_latest(one.registry)
    assert b'outcome="accepted"' not in generate_latest(other.registry)
