"""The tables. Input models are elsewhere: a table model does not validate."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, BigInteger, CheckConstraint, Column, Index, Integer
from sqlmodel import Field, SQLModel

from db.types import Money, UtcDateTime, ascii_text, blob, database_now, digest, server_now, text

# SQLite numbers rows by itself only in a column of type INTEGER.
BigId = BigInteger().with_variant(Integer(), "sqlite")


# The server's clock; sessions of this service run in UTC.
SERVER_NOW = server_now()


class Order(SQLModel, table=True):
    """One processed order. `fingerprint` is the SHA-256 of its canonical content."""

    __tablename__ = "orders"
    __table_args__ = (
        Index("uq_orders_idempotency_key", "idempotency_key", unique=True),
        Index("ix_orders_created_at", "created_at"),
        CheckConstraint("total_amount > 0", name="ck_orders_total_amount"),
    )

    order_id: str = Field(sa_column=Column(ascii_text(255), primary_key=True))
    user_id: str = Field(sa_column=Column(ascii_text(255), nullable=False))
    total_amount: Decimal = Field(sa_column=Column(Money(), nullable=False))
    status: str = Field(sa_column=Column(ascii_text(20), nullable=False))
    idempotency_key: str = Field(sa_column=Column(ascii_text(255), nullable=False))
    fingerprint: bytes = Field(sa_column=Column(digest(), nullable=False))
    items: list[dict[str, Any]] = Field(sa_column=Column(JSON, nullable=False))
    created_at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False))
    updated_at: datetime = Field(
        sa_column=Column(UtcDateTime(), nullable=False, onupdate=database_now())
    )


class OutboxEvent(SQLModel, table=True):
    """One message to publish: exactly these bytes, always under this `event_id`.

        committed                       committed and handed over
            │                                      │
            ▼              claimed                 ▼    confirmed                 purged
         waiting ──────────────────────────────▶ leased ──────────▶ published ─────────▶ ·
          ▲   ▲                                  │ │ │
          │   └──── released or lease expired ───┘ │ └─────────────▶ parked
          │ available_at reached                   │   last attempt refused
          └─────────────────── delayed ◀───────────┘
                                  refused or deferred

    Waiting: `published_at` and `parked_at` are NULL, `available_at` is NULL or past, and there is
    no lease or an expired one. Leased: `lease_until` is ahead; a row leased from birth has a
    `lease_token` and no `lease_until`, and its lease runs from `created_at`, by the server's clock.
    Only the holder of `lease_token` completes, delays, parks or releases a row. Delayed:
    `available_at` is ahead. Parked: `parked_at` is set, and later events of the aggregate wait.

    `ix_outbox_waiting` carries the claim's filter and order; a claim updates none of its columns.
    `ix_outbox_aggregate` finds an earlier unpublished event of the same aggregate. Both begin with
    `published_at`. Cost stays flat: unpublished rows are adjacent in the index.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        Index("uq_outbox_event_id", "event_id", unique=True),
        Index("ix_outbox_waiting", "published_at", "parked_at", "id"),
        Index("ix_outbox_aggregate", "published_at", "aggregate_id", "aggregate_type", "id"),
    )

    id: int | None = Field(
        default=None, sa_column=Column(BigId, primary_key=True, autoincrement=True)
    )
    event_id: str = Field(sa_column=Column(ascii_text(36), nullable=False))
    event_type: str = Field(sa_column=Column(ascii_text(100), nullable=False))
    aggregate_type: str = Field(sa_column=Column(ascii_text(32), nullable=False))
    aggregate_id: str = Field(sa_column=Column(ascii_text(255), nullable=False))
    exchange: str = Field(sa_column=Column(text(255), nullable=False))
    routing_key: str = Field(sa_column=Column(text(255), nullable=False))
    payload: bytes = Field(sa_column=Column(blob(), nullable=False))
    content_type: str | None = Field(default=None, sa_column=Column(text(255)))
    correlation_id: str | None = Field(default=None, sa_column=Column(text(255)))
    headers: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    attempts: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default="0"))
    available_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime()))
    lease_token: str | None = Field(default=None, sa_column=Column(ascii_text(36)))
    lease_until: datetime | None = Field(default=None, sa_column=Column(UtcDateTime()))
    last_error: str | None = Field(default=None, sa_column=Column(text(1000)))
    created_at: datetime | None = Field(
        default=None,
        sa_column=Column(UtcDateTime(), nullable=False, server_default=SERVER_NOW),
    )
    published_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime()))
    parked_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime()))


class DeadLetter(SQLModel, table=True):
    """A message that could not become an order, as it came, with its reason.

    `message_digest` is the SHA-256 of body and properties; equal messages are told apart by
    `occurrence` (1, 2, 3 …). Unique together: whoever records a delivery twice collides here.
    `attempts` counts how often it was refused: a copy that is moved back from the dead-letter queue
    is decided anew.
    """

    __tablename__ = "dead_letters"
    __table_args__ = (
        Index("uq_dead_letters_message", "message_digest", "occurrence", unique=True),
        Index("ix_dead_letters_reason", "reason", "received_at"),
        Index("ix_dead_letters_order", "order_id"),
        Index("ix_dead_letters_unacknowledged", "message_digest", "acknowledged_at"),
    )

    dead_letter_id: str = Field(sa_column=Column(ascii_text(36), primary_key=True))
    message_digest: bytes = Field(sa_column=Column(digest(), nullable=False))
    occurrence: int = Field(sa_column=Column(Integer, nullable=False))
    order_id: str | None = Field(default=None, sa_column=Column(ascii_text(255)))
    reason: str = Field(sa_column=Column(ascii_text(40), nullable=False))
    details: str = Field(sa_column=Column(text(1000), nullable=False))
    queue: str = Field(sa_column=Column(text(255), nullable=False))
    body: bytes = Field(sa_column=Column(blob(), nullable=False))
    headers: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    properties: dict[str, Any] = Field(sa_column=Column(JSON, nullable=False))
    received_at: datetime = Field(sa_column=Column(UtcDateTime(), nullable=False))
    redriven_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime()))
    """When it was moved back and became an order, or the repetition of one."""
    attempts: int = Field(default=1, sa_column=Column(Integer, nullable=False, server_default="1"))
    acknowledged_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime()))
    """Since when the broker is known to have the acknowledgement: no redelivery is this message."""
