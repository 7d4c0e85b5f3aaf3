"""The delay before the next attempt."""

from __future__ import annotations

import doctest

from hypothesis import given
from hypothesis import strategies as st

from service import backoff
from service.backoff import delay_after


def test_the_worked_numbers_in_the_docstring_are_right() -> None:
    results = doctest.testmod(backoff)
    assert results.attempted >= 1
    assert results.failed == 0


@given(st.integers(1, 10_000), st.floats(0.001, 60), st.floats(60, 3600), st.floats(0, 1))
def test_a_delay_is_between_half_and_all_of_its_step(
    attempt: int, first: float, longest: float, jitter: float
) -> None:
    def delay(share: float) -> float:
        return delay_after(
            attempt, first_seconds=first, longest_seconds=longest, jitter=lambda: share
        ).total_seconds()

    assert 0 < delay(1) <= delay(jitter) <= delay(0) <= longest + 1e-6
    assert abs(delay(1) - delay(0) / 2) < 1e-5


def test_delays_never_shrink_from_attempt_to_attempt() -> None:
    delays = [delay_after(attempt, jitter=lambda: 0) for attempt in range(1, 50)]
    assert delays == sorted(delays)


def test_many_who_failed_together_do_not_come_back_together() -> None:
    assert len({delay_after(5) for _ in range(20)}) > 1
