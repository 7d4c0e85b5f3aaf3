"""What waits stands together in `ix_outbox_aggregate`, apart from what was published.

Revision: 0002
Revises: 0001
"""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

INDEX, TABLE = "ix_outbox_aggregate", "outbox"


def upgrade() -> None:
    _replace(["published_at", "aggregate_id", "aggregate_type", "id"])


def downgrade() -> None:
    _replace(["aggregate_id", "aggregate_type", "published_at", "id"])


def _replace(columns: Sequence[str]) -> None:
    indexes = sa.inspect(op.get_bind()).get_indexes(TABLE)
    if any(each["name"] == INDEX and each["column_names"] == columns for each in indexes):
        return  # tables from before the version table
    if op.get_bind().dialect.name == "mysql":
        # One statement: services that run meanwhile name this index, and always find it.
        named = ", ".join(columns)
        op.execute(f"ALTER TABLE {TABLE} DROP INDEX {INDEX}, ADD INDEX {INDEX} ({named})")
    else:
        op.drop_index(INDEX, TABLE)
        op.create_index(INDEX, TABLE, list(columns))
