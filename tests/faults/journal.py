"""Append-only logs of what was published, what was confirmed, and what an observer received.

JSON lines. A record counts once it is on disk: `append` returns after the fsync that covers it, and
one fsync covers all records that were handed in while the one before it ran.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Generic, Self, TypeVar


@dataclass(frozen=True, slots=True)
class Attempt:
    """One publishing of one message to the incoming queue.

    `reason` is why the message must be refused, whatever else is stored; None for a valid one.
    `trace` is the correlation id it carries, by which its effects are told from those of others;
    None where it carries none, or one that other messages carry too: then its body tells.
    """

    attempt_id: str
    kind: str
    body: bytes
    reason: str | None = None
    trace: str | None = None
    number: int = 1
    order_id: str | None = None
    key: str | None = None
    content_encoding: str | None = None


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The broker has confirmed this attempt."""

    attempt_id: str


@dataclass(frozen=True, slots=True)
class Observed:
    """One message as it came out of the events exchange."""

    event_id: str | None
    type: str | None
    routing_key: str
    payload: bytes
    headers: dict[str, Any] = field(default_factory=dict)
    correlation_id: str | None = None
    content_type: str | None = None
    persistent: bool = True
    redelivered: bool = False


Record = TypeVar("Record", Attempt, Confirmed, Observed)


class Journal(Generic[Record]):
    """The records of one kind, in the order in which they were handed in."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self._waiting: list[tuple[Record, asyncio.Future[None]]] = []
        self._handed_in = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def open(cls, path: Path) -> AsyncIterator[Self]:
        journal = cls(path)
        writing = asyncio.create_task(journal._write())
        try:
            yield journal
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)

    async def append(self, record: Record) -> None:
        """Write the record; returns once it is on disk, and then it is among `records`."""
        on_disk = asyncio.get_running_loop().create_future()
        self._waiting.append((record, on_disk))
        self._handed_in.set()
        # Who stops waiting does not unwrite the record.
        await asyncio.shield(on_disk)

    async def _write(self) -> None:
        while True:
            await self._handed_in.wait()
            self._handed_in.clear()
            group, self._waiting = self._waiting, []
            lines = "".join(line_of(record) for record, _ in group)
            try:
                await asyncio.to_thread(_append_durably, self.path, lines)
            except OSError as error:
                for _, on_disk in group:
                    on_disk.set_exception(error)
                continue
            for record, on_disk in group:
                self.records.append(record)
                on_disk.set_result(None)


def line_of(record: Attempt | Confirmed | Observed) -> str:
    """Bytes are written as the Latin-1 text of the same code points, which loses nothing."""
    return json.dumps(asdict(record), default=_as_text) + "\n"


def read(path: Path, kind: type[Record]) -> Iterator[Record]:
    """What a journal's file holds."""
    of_bytes = {each.name for each in fields(kind) if each.type == "bytes"}
    with path.open() as lines:
        for line in lines:
            found = json.loads(line)
            yield kind(
                **{
                    name: value.encode("latin-1") if name in of_bytes else value
                    for name, value in found.items()
                }
            )


def _as_text(value: object) -> str:
    return bytes(value).decode("latin-1") if isinstance(value, bytes | bytearray) else str(value)


def _append_durably(path: Path, lines: str) -> None:
    with path.open("a") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())
