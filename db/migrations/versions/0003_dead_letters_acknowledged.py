"""Dead letters whose message the broker will not deliver again are marked.

Revision: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

from db.types import UtcDateTime

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INDEX, TABLE, COLUMN = "ix_dead_letters_unacknowledged", "dead_letters", "acknowledged_at"


def upgrade() -> None:
    there = sa.inspect(op.get_bind())
    # An interrupted migration is completed: MySQL commits after each statement.
    if COLUMN not in {each["name"] for each in there.get_columns(TABLE)}:
        op.add_column(TABLE, sa.Column(COLUMN, UtcDateTime()))
    if INDEX not in {each["name"] for each in there.get_indexes(TABLE)}:
        op.create_index(INDEX, TABLE, ["message_digest", COLUMN])


def downgrade() -> None:
    op.drop_index(INDEX, TABLE)
    op.drop_column(TABLE, COLUMN)
