"""Logs, metrics and their fixed vocabularies. Never a payload value in either."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector

logger = logging.getLogger("orders")


class Action(StrEnum):
    """Everything that this service logs, by name. A line appears when something changed."""

    STARTING = "starting"
    STOPPED = "stopped"
    CONFIGURATION = "configuration"
    DATABASE_WAITING = "database-waiting"
    DATABASE_READY = "database-ready"
    SCHEMA_BEHIND = "schema-behind"
    BROKER_WAITING = "broker-waiting"
    CONSUMING = "consuming"
    CONSUMING_STOPPED = "consuming-stopped"
    QUEUE_DIFFERS = "queue-differs"
    NEIGHBOUR = "another-service-on-this-vhost"
    EXCHANGE_DIFFERS = "exchange-differs"
    TOPOLOGY_REFUSED = "topology-refused"
    INTAKE_RETRYING = "intake-retrying"
    INTAKE_RESUMED = "intake-resumed"
    DEAD_LETTERED = "dead-lettered"
    DEAD_LETTER_RETURNED = "dead-letter-returned"
    MARKING_FAILED = "marking-failed"
    MESSAGE_FAILED = "message-failed"
    PUT_ASIDE = "put-aside"
    RELAY_WAITING = "relay-waiting"
    RELAY_RESUMED = "relay-resumed"
    EVENT_RETRIED = "event-retried"
    EVENT_DEFERRED = "event-deferred"
    EVENT_PARKED = "event-parked"
    LEASE_LOST = "lease-lost"
    PURGED = "purged"
    PURGE_FAILED = "purge-failed"
    TASK_FAILED = "task-failed"
    STALLED = "stalled"


def log(action: Action, level: int = logging.INFO, /, **fields: Any) -> None:
    """One line: the action, then its fields. Fields are ids, counts and reasons, never payloads."""
    logger.log(level, "%s", action, extra={"fields": fields})


def where(error: BaseException) -> str:
    """The places an error came through, innermost last: never its message, which may quote."""
    frames = traceback.extract_tb(error.__traceback__)[-4:]
    return " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)


class TextFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z WARNING orders broker-waiting broker=… retry_in_seconds=2.0`."""

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        words = [moment.replace("+00:00", "Z"), record.levelname, record.name]
        message = record.getMessage()
        words.append(message if message.isprintable() else json.dumps(message))
        words += [f"{name}={_quoted(value)}" for name, value in fields.items()]
        if record.exc_info:
            words.append("\n" + self.formatException(record.exc_info))
        return " ".join(words)


class JsonFormatter(logging.Formatter):
    """The same line as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        described = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            described["exception"] = self.formatException(record.exc_info)
        return json.dumps(described, default=str)


def _quoted(value: Any) -> str:
    """Bare where it is one word, else quoted; a line break in a value never ends the line."""
    text = str(round(value, 3) if isinstance(value, float) else value)
    return text if text.isprintable() and text and " " not in text else json.dumps(text)


def configure_logging(level: str, style: Literal["text", "json"]) -> None:
    """Send this service's log, and the libraries' warnings, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logger.setLevel(level)
    # They tell of each failed attempt to connect, which we tell better, and with tracebacks.
    for noisy in ("aiormq", "aio_pika"):
        logging.getLogger(noisy).setLevel(logging.CRITICAL)


class Metrics:
    """What `/metrics` shows, in a registry of its own.

    With PROMETHEUS_MULTIPROC_DIR set to an empty folder, prometheus_client keeps the values there,
    and each of several workers answers for all of them; without it, each answers for itself.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.messages = Counter(
            "orders_messages",
            "Messages that were decided, by outcome: accepted, duplicate, dead_lettered, repeated, "
            "returned.",
            ["outcome"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "orders_dead_letters", "Dead letters by reason.", ["reason"], registry=registry
        )
        self.batch_size = Histogram(
            "orders_intake_batch_size",
            "Messages per intake transaction.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "orders_intake_commit_seconds",
            "Time of an intake transaction, in seconds.",
            registry=registry,
        )
        self.published = Counter(
            "orders_relay_published", "Events confirmed by the broker.", registry=registry
        )
        self.retried = Counter(
            "orders_relay_retried", "Events that failed and will be retried.", registry=registry
        )
        self.parked = Counter(
            "orders_relay_parked", "Events set aside after the last attempt.", registry=registry
        )
        self.relay_seconds = Histogram(
            "orders_relay_batch_seconds",
            "Time to claim, publish and complete a batch, in seconds.",
            registry=registry,
        )
        self.outbox_pending = self._gauge(
            "orders_outbox_pending", "Events that wait to be published."
        )
        self.outbox_parked = self._gauge(
            "orders_outbox_parked", "Events set aside for an operator."
        )
        self.outbox_oldest = self._gauge(
            "orders_outbox_oldest_pending_seconds",
            "Age of the oldest event that waits, in seconds.",
        )
        self.consuming = self._gauge("orders_consuming", "1 while messages are consumed.")
        self.database_up = self._gauge("orders_database_up", "1 while the database answers.")
        self.broker_up = self._gauge("orders_broker_up", "1 while the broker is connected.")

    def exposed(self) -> bytes:
        """Everything in Prometheus's text format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self.registry)
        shared = CollectorRegistry()
        MultiProcessCollector(shared)  # type: ignore[no-untyped-call]
        return generate_latest(shared)

    def _gauge(self, name: str, description: str) -> Gauge:
        # Measured when asked: of several workers, who answered last knows best.
        return Gauge(name, description, registry=self.registry, multiprocess_mode="livemostrecent")
