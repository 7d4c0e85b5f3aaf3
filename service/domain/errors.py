"""The error tree.

OrderServiceError
├── ConfigurationError      the environment is wrong; the message names each variable
├── SchemaBehindError       the database schema is not the one this code was written for
├── TopologyRefusedError    what is there at the broker would lose orders; says what to do
├── UnusableFileError       the SQLite file is none that can be used; the message says what to do
├── Refusal                 a message that can never become an order; carries reason and details
├── StorageRefusedError     one message that the database will never take; a defect, or near one
├── DatabaseAwayError       the database cannot be reached or did not answer in time
└── BrokerAwayError         RabbitMQ cannot be reached or did not answer in time
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from order_contracts import FailureReason


class OrderServiceError(Exception):
    """Root of everything this service raises on purpose."""


class ConfigurationError(OrderServiceError):
    """The environment is wrong. The message has one line per fault."""


class SchemaBehindError(OrderServiceError):
    """The schema in the database is not this code's. The message says what to run."""


class TopologyRefusedError(OrderServiceError):
    """What is there at the broker would lose orders, or have them go round.

    The message says what is there, what is needed, and what to do.
    """


class UnusableFileError(OrderServiceError):
    """The SQLite file is none that can be used. The message says why, and what to do."""


class Refusal(OrderServiceError):  # noqa: N818 - the domain's word, and not a failure of the service
    """A message that can never become an order.

    `details` names the field and the rule that was broken, never a value of the payload.
    """

    def __init__(self, reason: FailureReason, details: str) -> None:
        super().__init__(f"{reason}: {details}")
        self.reason = reason
        self.details = details

    def without_origin(self) -> Refusal:
        """The same, never raised: it keeps alive no frame, and no body that a frame has read."""
        return Refusal(self.reason, self.details)


class StorageRefusedError(OrderServiceError):
    """The database will never take this message; why is the cause."""


class TooManyReturnsError(OrderServiceError):
    """A body that is kept in the dead-letter queue alone came back from there too often."""


class DatabaseAwayError(OrderServiceError):
    """The database cannot be reached or did not answer in time; the driver's error is the cause."""


class BrokerAwayError(OrderServiceError):
    """RabbitMQ cannot be reached or did not answer in time; the driver's error is the cause.

    `outcomes` are those of the publications that were answered before; `timed_out` says whether
    answers stopped coming, rather than the link being lost.
    """

    def __init__(
        self, message: str, *, outcomes: Sequence[Any] = (), timed_out: bool = False
    ) -> None:
        super().__init__(message)
        self.outcomes = list(outcomes)
        self.timed_out = timed_out
