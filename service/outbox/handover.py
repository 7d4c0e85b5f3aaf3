"""From a commit to the relay of the same process, without a claim.

A shortcut that nothing rests on: an event that is handed over stands in the outbox, leased from the
start under this process's token. Where it is lost on the way, because the process dies or a server
is away, its lease ends, and whoever claims next publishes it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from db.outbox import ClaimedEvent
from service.outbox.envelope import new_id

# So long intake waits for the relay before a batch. A relay that hangs on a broker which does not
# answer gives up by itself (PUBLISH_TIMEOUT_SECONDS), and takes nothing over until it is back.
LONGEST_WAIT_SECONDS = 0.5
# Above this many bytes of payload, too, no more leases are given.
MAX_HANDED_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Lease:
    """Leave to store events as the relay's own, and to hand them over once they are committed.

    After `until`, on the monotonic clock in seconds, the relay does not begin with them any more.
    """

    token: str
    until: float


class Handover:
    """Between intake and relay, two tasks of one process."""

    def __init__(self, *, capacity: int, lease_seconds: float) -> None:
        """`capacity` is the number of events above which no more leases are given."""
        self._capacity = capacity
        # The other half is for publishing, and for writing down that it was done.
        self._usable_seconds = lease_seconds / 2
        self._events: deque[tuple[ClaimedEvent, float]] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._taken = asyncio.Event()
        self.token = new_id()
        self.open = False
        """Whether the relay keeps up. Else events queue in the outbox, behind those before them."""
        self.unleased = False
        """Whether events were committed since that somebody has to claim."""

    def __len__(self) -> int:
        return len(self._events)

    @property
    def _full(self) -> bool:
        return len(self._events) >= self._capacity or self._bytes >= MAX_HANDED_BYTES

    def lease(self) -> Lease | None:
        """Asked before the transaction, in whose course the lease begins."""
        if not self.open or self._full:
            return None
        return Lease(self.token, time.monotonic() + self._usable_seconds)

    async def room(self) -> None:
        """Return once the relay has caught up so far that a lease can be given.

        Or after `LONGEST_WAIT_SECONDS`, or where the relay takes nothing over now: then events
        queue in the outbox. Else intake, whose messages come in by the hundred, would leave the
        relay few turns of the event loop, and most events would have to be claimed.
        """
        if self.open and self._full:
            self._taken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LONGEST_WAIT_SECONDS):
                    await self._taken.wait()

    def give(self, events: Sequence[ClaimedEvent], lease: Lease) -> None:
        """Hand over what was committed under this lease."""
        self._events.extend((event, lease.until) for event in events)
        self._bytes += sum(len(event.payload) for event in events)
        self._news.set()

    def take(self, limit: int) -> list[ClaimedEvent]:
        """The oldest that are here, without those whose lease may be over before they are out."""
        now = time.monotonic()
        self._taken.set()
        there = [self._events.popleft() for _ in range(min(limit, len(self._events)))]
        self._bytes -= sum(len(event.payload) for event, _ in there)
        return [event for event, until in there if now < until]

    def claim(self) -> None:
        """A claim begins: it takes what nobody leased, unless that stands behind what is here."""
        if not self._events:
            self.unleased = False

    def tell(self) -> None:
        """Events were committed that nobody has leased: they are to be claimed."""
        self.unleased = True
        self._news.set()

    def wake(self) -> None:
        """Wake the relay: it has something to do beside what is here."""
        self._news.set()

    def close(self) -> None:
        """Give no more leases, and wake whoever waits."""
        self.open = False
        self._taken.set()
        self._news.set()

    async def wait(self, seconds: float) -> None:
        """Return when there is something new, at the latest after `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()
        self._news.clear()
