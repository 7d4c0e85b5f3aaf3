"""How the loss of the link to the broker shows: errors, and cancellations that nobody meant."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from aio_pika.exceptions import AMQPError

# aiormq says with a RuntimeError that a channel or connection is gone, and with the last where a
# load balancer without a node behind it accepts and hangs up.
LINK_FAILURES = (AMQPError, OSError, TimeoutError, RuntimeError, StopAsyncIteration)


class LinkLostError(ConnectionError):
    """The link was lost while something waited for an answer on it."""


@contextlib.contextmanager
def loss_as_error() -> Iterator[None]:
    """Make of whatever the client does to one who waits on a link that is lost a `LINK_FAILURE`.

    It cancels whoever waits; or, where the connection is closed without a reason, raises a plain
    Exception. A cancellation by anybody else is passed on. Stands inside `asyncio.timeout`, whose
    own cancellation is somebody else's too.

    Raises:
        LinkLostError: with what the client did as its cause.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        if told_to_end():
            raise
        raise LinkLostError from error
    except Exception as error:
        if type(error) is not Exception:
            raise
        raise LinkLostError from error


def told_to_end() -> bool:
    """Whether somebody cancels the current task, rather than something that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
