"""What the AMQP driver's errors hide: how far a connection came, and what the broker said."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from enum import Enum, auto

from aiormq.exceptions import (
    AuthenticationError,
    ConnectionClosed,
    ProbableAuthenticationError,
)

from service.driver_errors import as_said, explain_broker

_SUBJECT = re.compile(r" for (queue|exchange) '.*' in vhost '.*?'(?=:)")


class Stage(Enum):
    """Where a connection failed. A vhost is entered only after the login was accepted."""

    REACHING = auto()
    LOGIN = auto()
    VHOST = auto()


def stage(error: BaseException) -> Stage:
    if isinstance(error, (AuthenticationError, ProbableAuthenticationError)):
        return Stage.LOGIN
    if isinstance(as_said(error), ConnectionClosed):
        return Stage.VHOST
    return Stage.REACHING


def explain(error: BaseException) -> str:
    """Why the broker cannot be used, in a sentence without its subject."""
    return explain_broker(error)


def without_name(words: str) -> str:
    """The broker's own words, without the name: `inequivalent arg 'durable': received …`."""
    text = words.removeprefix("PRECONDITION_FAILED - ")
    return _SUBJECT.sub("", text, count=1)


@contextlib.contextmanager
def silent_driver() -> Iterator[None]:
    """The driver logs what it raises too; here the findings say it."""
    loggers = [logging.getLogger(name) for name in ("aiormq", "aio_pika")]
    before = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for each, level in zip(loggers, before, strict=True):
            each.setLevel(level)
