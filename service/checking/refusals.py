"""What the AMQP driver's errors hide: how far a connection came, and what the broker said."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from enum import Enum, auto

from aiormq.exceptions import (
    AMQPConnectionError,
    AuthenticationError,
    ConnectionClosed,
    IncompatibleProtocolError,
    InvalidFrameError,
    ProbableAuthenticationError,
    ProtocolSyntaxError,
)
from pamqp.commands import Connection as Frames

from service.explain import explain_broker


class Stage(Enum):
    """Where a connection failed. A vhost is entered only after the login was accepted."""

    REACHING = auto()
    LOGIN = auto()
    VHOST = auto()


def stage(error: BaseException) -> Stage:
    if isinstance(error, (AuthenticationError, ProbableAuthenticationError)):
        return Stage.LOGIN
    if isinstance(_as_said(error), ConnectionClosed):
        return Stage.VHOST
    return Stage.REACHING


def explain(error: BaseException) -> str:
    """Why the broker cannot be used, in a sentence without its subject."""
    said = _as_said(error)
    if isinstance(said, (IncompatibleProtocolError, ProtocolSyntaxError)):
        return "something answers there that does not speak AMQP: is the port right?"
    return explain_broker(said)


def words(refusal: Exception) -> str:
    """The broker's own sentence, such as `inequivalent arg 'durable' for queue …`."""
    return str(refusal).removeprefix("PRECONDITION_FAILED - ")


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


def _as_said(error: BaseException) -> BaseException:
    """The error without its wrapping.

    aiormq raises an AMQPConnectionError, itself a ConnectionError, from each failure to connect.
    Of a broker that closes the link instead of opening the vhost it keeps only that it did.
    """
    if isinstance(error, InvalidFrameError):
        close = _close_frame(error)
        return error if close is None else ConnectionClosed(close.reply_code, close.reply_text)
    if type(error) is AMQPConnectionError and error.__cause__ is not None:
        return error.__cause__
    return error


def _close_frame(error: BaseException) -> Frames.Close | None:
    """The frame that the driver was looking at when it raised."""
    trace = error.__traceback__
    while trace is not None:
        if isinstance(frame := trace.tb_frame.f_locals.get("frame"), Frames.Close):
            return frame
        trace = trace.tb_next
    return None
