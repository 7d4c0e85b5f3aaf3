"""What a message costs, as a multiple of what a plain order of its size costs, in one run."""

from __future__ import annotations

import gc
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from order_contracts import MAX_BODY_BYTES, MAX_ITEMS
from tests.costs.genes import LINE, ORDER
from tests.costs.way import Message, link, pass_through

LIMIT = 5.0
# A noisy machine only ever makes something slower: the best of several is what it costs.
MOST_TRIES = 12
LINK = link()


@dataclass(frozen=True, slots=True)
class Cost:
    """Of a message, in plain orders of its size."""

    cpu: float
    memory: float

    @property
    def worst(self) -> float:
        return max(self.cpu, self.memory)


def plain_order(size: int) -> Message:
    """The order of that many bytes, or the nearest that the contract allows; many items."""
    room = min(size, MAX_BODY_BYTES) - len(ORDER) - 3
    count = min(max(room // (len(LINE) + 1), 1), MAX_ITEMS)
    return Message(ORDER + b"[" + b",".join([LINE] * count) + b"]}")


def cost_of(message: Message) -> Cost:
    """Measured again and again, beside the plain order, while it looks like too much."""
    plain = plain_order(message.size)
    memory = peak_bytes(message) / _plain_bytes(plain)
    theirs, ours = _seconds(plain), _seconds(message)
    tries = 1
    while ours > LIMIT / 2 * theirs and tries < MOST_TRIES:
        theirs, ours = min(theirs, _seconds(plain)), min(ours, _seconds(message))
        tries += 1
    return Cost(ours / theirs, memory)


def peak_bytes(message: Message) -> int:
    """The most that was allocated at once on its way, its own bytes aside: counted, not timed."""
    gc.collect()
    tracemalloc.start()
    try:
        pass_through(message, LINK)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@lru_cache(maxsize=64)
def _plain_bytes(plain: Message) -> int:
    return peak_bytes(plain)


def _seconds(message: Message) -> float:
    """Of this thread's processor time, without the search for cyclic garbage."""
    return _timed(lambda: pass_through(message, LINK))


def _timed(run: Callable[[], object]) -> float:
    gc.disable()
    try:
        started = time.thread_time()
        run()
        return time.thread_time() - started
    finally:
        gc.enable()
