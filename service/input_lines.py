"""Lines of a file or of standard input, plain or gzipped, read as they are needed."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gzip
import io
import sys
import threading
import zlib
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path
from typing import IO, Any, cast

GZIP_MAGIC = b"\x1f\x8b"
MAX_LINE_BYTES = 16 * 1024 * 1024  # what RabbitMQ 4 takes by default
READ_AHEAD = 100
UNREADABLE = (OSError, EOFError, zlib.error)

Line = tuple[int, bytes]


def open_source(source: str) -> IO[bytes]:
    """The file, or standard input for `-`, as it is: `numbered_lines` unpacks it.

    Raises:
        OSError: it cannot be opened.
    """
    if source != "-":
        return Path(source).open("rb")
    if sys.stdin is None:
        raise OSError(errno.EBADF, "it is closed")
    # A reader of its own: at the end Python waits for the lock of `sys.stdin`, which a thread that
    # waits for input would hold.
    return open(0, "rb", closefd=False)


def numbered_lines(source: IO[bytes]) -> Iterator[Line]:
    """The lines, plain or unpacked, with their numbers; empty ones are counted and left out.

    Of one that is longer than `MAX_LINE_BYTES` the beginning, which is longer too.

    Raises:
        OSError, EOFError, zlib.error: it cannot be read, is damaged, or is cut off.
    """
    with source, _unpacked(source) as stream:
        for number in count(1):
            line = stream.readline(MAX_LINE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_LINE_BYTES:
                _skip_to_its_end(stream, line)
                yield number, line
            elif stripped := line.strip():
                yield number, stripped


async def read_aside(lines: Iterator[Line]) -> AsyncIterator[Line]:
    """The lines, read by a thread: a slow pipe holds up neither heartbeats nor Ctrl-C."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Line | Exception | None] = asyncio.Queue()
    room = threading.Semaphore(READ_AHEAD)

    def read() -> None:
        end: Exception | None = None
        try:
            for each in lines:
                room.acquire()
                loop.call_soon_threadsafe(queue.put_nowait, each)
        except Exception as error:  # noqa: BLE001 - raised where the lines are waited for
            end = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nothing waits any more
            loop.call_soon_threadsafe(queue.put_nowait, end)

    threading.Thread(target=read, name="lines", daemon=True).start()
    while isinstance(each := await queue.get(), tuple):
        room.release()
        yield each
    if each is not None:
        raise each


def why_unreadable(error: Exception) -> str:
    """What is wrong with the source, of an error in `UNREADABLE`."""
    return getattr(error, "strerror", None) or "it is damaged, or cut off"


def _skip_to_its_end(stream: IO[bytes], line: bytes) -> None:
    while line and not line.endswith(b"\n"):
        line = stream.readline(MAX_LINE_BYTES)


def _unpacked(source: IO[bytes]) -> IO[bytes]:
    head = source.read(len(GZIP_MAGIC))  # waits for both, as `peek` does not
    stream = io.BufferedReader(_Again(head, source))
    return cast("IO[bytes]", gzip.open(stream) if head == GZIP_MAGIC else stream)


class _Again(io.RawIOBase):
    """What was read already, then the rest."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = head
        self._rest = cast("io.BufferedReader", rest)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        some = self._head or self._rest.read1(len(buffer))
        self._head = b""
        buffer[: len(some)] = some
        return len(some)
