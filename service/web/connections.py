"""One HTTP connection, bounded in time; all of them together, bounded in number.

Invariants:
- no connection lives longer than `exchange_seconds` after its start or its last complete answer;
- a new connection is always taken: above `most`, the oldest one goes that waits for its client
  rather than for us, so whoever asks and listens is answered however many half-sent requests there
  are;
- a connection that is cut is cut at once: closing would wait for its client to read.

h11 always, whichever other implementation is installed: it is the one that is tested.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    most: int = 256
    exchange_seconds: float = 30.0


class BoundedConnection(H11Protocol):
    """uvicorn's connection, with `limits`, which are those of the process."""

    limits: ClassVar[Limits] = Limits()
    # In the order of their starts or last complete answers.
    _open: ClassVar[dict[BoundedConnection, None]] = {}

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._renew()
        if len(self._open) > self.limits.most:
            others = list(self._open)[:-1]
            next((each for each in others if not each.at_work), others[0]).cut()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        if self in self._open:
            self._renew()
        super().on_response_complete()

    def shutdown(self) -> None:
        """At the end of the process: an answer under way is finished, half a request is not."""
        if self.at_work or self.cycle is None or self.cycle.response_complete:
            super().shutdown()
        else:
            self.cut()

    @property
    def at_work(self) -> bool:
        """Whether a request has come completely and its answer has not gone completely."""
        cycle = self.cycle
        return cycle is not None and not (cycle.more_body or cycle.response_complete)

    def cut(self) -> None:
        self._forget()
        self.transport.abort()

    def _renew(self) -> None:
        self._forget()
        self._open[self] = None
        self._deadline = self.loop.call_later(self.limits.exchange_seconds, self.cut)

    def _forget(self) -> None:
        self._open.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
