"""Orders, outbox and dead letters.

Makes what is missing: tables from before the version table, and those of an interrupted migration
(MySQL commits each statement by itself), are taken over as they are.

Revision: 0001
Revises: nothing
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

from db.types import Money, UtcDateTime, ascii_text, blob, digest, server_now, text

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "orders",
        sa.Column("order_id", ascii_text(255), primary_key=True),
        sa.Column("user_id", ascii_text(255), nullable=False),
        sa.Column("total_amount", Money(), nullable=False),
        sa.Column("status", ascii_text(20), nullable=False),
        sa.Column("idempotency_key", ascii_text(255), nullable=False),
        sa.Column("fingerprint", digest(), nullable=False),
        sa.Column("items", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.CheckConstraint("total_amount > 0", name="ck_orders_total_amount"),
        if_not_exists=True,
    )
    _create_index("uq_orders_idempotency_key", "orders", ["idempotency_key"], unique=True)
    _create_index("ix_orders_created_at", "orders", ["created_at"])

    op.create_table(
        "outbox",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("event_id", ascii_text(36), nullable=False),
        sa.Column("event_type", ascii_text(100), nullable=False),
        sa.Column("aggregate_type", ascii_text(32), nullable=False),
        sa.Column("aggregate_id", ascii_text(255), nullable=False),
        sa.Column("exchange", text(255), nullable=False),
        sa.Column("routing_key", text(255), nullable=False),
        sa.Column("payload", blob(), nullable=False),
        sa.Column("content_type", text(255)),
        sa.Column("correlation_id", text(255)),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("available_at", UtcDateTime()),
        sa.Column("lease_token", ascii_text(36)),
        sa.Column("lease_until", UtcDateTime()),
        sa.Column("last_error", text(1000)),
        sa.Column("created_at", UtcDateTime(), nullable=False, server_default=server_now()),
        sa.Column("published_at", UtcDateTime()),
        sa.Column("parked_at", UtcDateTime()),
        if_not_exists=True,
    )
    _create_index("uq_outbox_event_id", "outbox", ["event_id"], unique=True)
    _create_index("ix_outbox_waiting", "outbox", ["published_at", "parked_at", "id"])
    _create_index(
        "ix_outbox_aggregate",
        "outbox",
        ["aggregate_id", "aggregate_type", "published_at", "id"],
    )

    op.create_table(
        "dead_letters",
        sa.Column("dead_letter_id", ascii_text(36), primary_key=True),
        sa.Column("message_digest", digest(), nullable=False),
        sa.Column("occurrence", sa.Integer(), nullable=False),
        sa.Column("order_id", ascii_text(255)),
        sa.Column("reason", ascii_text(40), nullable=False),
        sa.Column("details", text(1000), nullable=False),
        sa.Column("queue", text(255), nullable=False),
        sa.Column("body", blob(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("properties", sa.JSON(), nullable=False),
        sa.Column("received_at", UtcDateTime(), nullable=False),
        sa.Column("redriven_at", UtcDateTime()),
        if_not_exists=True,
    )
    _create_index(
        "uq_dead_letters_message", "dead_letters", ["message_digest", "occurrence"], unique=True
    )
    _create_index("ix_dead_letters_reason", "dead_letters", ["reason", "received_at"])
    _create_index("ix_dead_letters_order", "dead_letters", ["order_id"])


def _create_index(name: str, table: str, columns: Sequence[str], *, unique: bool = False) -> None:
    there = {index["name"] for index in sa.inspect(op.get_bind()).get_indexes(table)}
    if name not in there:
        op.create_index(name, table, list(columns), unique=unique)


def downgrade() -> None:
    op.drop_table("dead_letters")
    op.drop_table("outbox")
    op.drop_table("orders")
