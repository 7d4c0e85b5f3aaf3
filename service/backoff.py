"""How long to wait before the next attempt."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta


def delay_after(
    attempt: int,
    *,
    first_seconds: float = 1.0,
    longest_seconds: float = 300.0,
    jitter: Callable[[], float] = random.random,
) -> timedelta:
    """The delay after failed attempt `attempt` (1, 2, 3 …): doubling, capped, then jittered.

    Jitter takes away up to half, so that many who failed together do not come back together.
    With the defaults and jitter() == 0: 1 s, 2 s, 4 s, 8 s, 16 s, 32 s, 64 s, 128 s, 256 s, 300 s,
    300 s …; with jitter() == 1, half of each.

    >>> [delay_after(n, jitter=lambda: 0).total_seconds() for n in (1, 2, 3, 9, 10, 99)]
    [1.0, 2.0, 4.0, 256.0, 300.0, 300.0]
    """
    doubled = first_seconds * 2.0 ** min(attempt - 1, 30)
    return timedelta(seconds=min(doubled, longest_seconds) * (1 - jitter() / 2))
