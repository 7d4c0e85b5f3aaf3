"""Saying what a command waits for, while it does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Self

NOTICE_SECONDS = 3.0


class Waits:
    """What a command waits for now; told where it takes longer than a moment."""

    def __init__(self, subject: str, tell: Callable[[str], None]) -> None:
        self._subject = subject
        self._tell_of = tell
        self._what = "an answer"
        self._since = time.monotonic()
        self._notice: asyncio.TimerHandle | None = None

    def begin(self, what: str) -> None:
        self._cancel()
        self._what, self._since = what, time.monotonic()
        self._notice = asyncio.get_running_loop().call_later(NOTICE_SECONDS, self._tell)

    def in_vain(self) -> str:
        return f"waited {time.monotonic() - self._since:.0f} s for {self._what}, in vain"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cancel()

    def _cancel(self) -> None:
        if self._notice is not None:
            self._notice.cancel()

    def _tell(self) -> None:
        self._tell_of(f"Waiting for {self._subject}: {self._what} ...")
