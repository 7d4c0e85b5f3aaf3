"""How often a dead letter was refused is counted.

Revision: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TABLE, COLUMN = "dead_letters", "attempts"


def upgrade() -> None:
    # An interrupted migration is completed: MySQL commits after each statement.
    if COLUMN not in {each["name"] for each in sa.inspect(op.get_bind()).get_columns(TABLE)}:
        # With a default: services of the version before write rows without it.
        op.add_column(TABLE, sa.Column(COLUMN, sa.Integer(), nullable=False, server_default="1"))


def downgrade() -> None:
    op.drop_column(TABLE, COLUMN)
