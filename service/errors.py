"""The error tree.

OrderServiceError
├── ConfigurationError      the environment is wrong; the message names each variable
├── SchemaBehindError       the database schema is not the one this code was written for
├── Refusal                 a message that can never become an order; carries reason and details
├── StorageRefusedError     one message that the database will never take; a defect, or near one
├── DatabaseAwayError       the database cannot be reached or did not answer in time
└── BrokerAwayError         RabbitMQ cannot be reached or did not answer in time
"""

from __future__ import annotations

from service.contracts import FailureReason


class OrderServiceError(Exception):
    """Root of everything this service raises on purpose."""


class ConfigurationError(OrderServiceError):
    """The environment is wrong. The message has one line per fault."""


class SchemaBehindError(OrderServiceError):
    """The schema in the database is not this code's. The message says what to run."""


class Refusal(OrderServiceError):  # noqa: N818 - the domain's word, and not a failure of the service
    """A message that can never become an order.

    `details` names the field and the rule that was broken, never a value of the payload.
    """

    def __init__(self, reason: FailureReason, details: str) -> None:
        super().__init__(f"{reason}: {details}")
        self.reason = reason
        self.details = details


class StorageRefusedError(OrderServiceError):
    """The database will never take this message; why is the cause."""


class DatabaseAwayError(OrderServiceError):
    """The database cannot be reached or did not answer in time; the driver's error is the cause."""


class BrokerAwayError(OrderServiceError):
    """RabbitMQ cannot be reached or did not answer in time; the driver's error is the cause."""
