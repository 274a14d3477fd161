"""Keep how the replica of an attempt was chosen, and how many cached tokens were expected there."""

import sqlalchemy as sa
from alembic import op

revision = "replica_choice"
down_revision = "gate_signals"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Earlier rows keep NULL, because it was not written down."""
    op.add_column("attempts", sa.Column("replica_mode", sa.Text))
    op.add_column("attempts", sa.Column("expected_cached_tokens", sa.Integer))
