"""Whether the links that deliveries came on still hold: asked of the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from service.rabbitmq.connection import LINK_FAILURES, answered, loss_as_error

LINK_ANSWER_SECONDS = 5.0


class LinksUnknownError(Exception):
    """Whether the links of these channels still hold is to be asked before anything is decided."""

    def __init__(self, channels: Sequence[Any], recorded: Mapping[bytes, int]) -> None:
        super().__init__(f"{len(channels)} channels")
        self.channels = channels
        self.recorded = dict(recorded)
        """How often each message was recorded when it turned out that this has to be asked."""


class Links:
    """What the broker answered a moment ago, by channel; a closed channel is None.

    While a link holds, the broker has given what is unacknowledged on it to nobody else. An answer
    counts for a message as long as it was not recorded again since before the question: a process
    that was stopped in between may have lost its link meanwhile.
    """

    def __init__(self) -> None:
        self._answers: dict[int, bool] = {}
        self._recorded: dict[bytes, int] = {}

    async def ask(self, unknown: LinksUnknownError) -> None:
        """Ask over each channel, all at once; one that falls silent does not hold."""
        distinct = {id(each): each for each in unknown.channels if each is not None}
        answers = await asyncio.gather(*(_answers(each) for each in distinct.values()))
        self._answers = dict(zip(distinct, answers, strict=True))
        self._recorded = unknown.recorded

    def asked(self, channel: Any, digest: bytes, recorded: int) -> bool:
        if channel is None:
            return True
        return id(channel) in self._answers and self._recorded.get(digest) == recorded

    def hold(self, channel: Any) -> bool:
        return channel is not None and self._answers.get(id(channel), False)


async def _answers(channel: Any) -> bool:
    try:
        with loss_as_error():
            question = channel.flow(active=True)
            await answered(channel.connection, question, within_seconds=LINK_ANSWER_SECONDS)
    except LINK_FAILURES:
        return False
    return True
