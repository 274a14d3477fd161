"""Keep what router and gate rested on: the router model's word, the least likely token, verdict, agreement."""

import sqlalchemy as sa
from alembic import op

revision = "gate_signals"
down_revision = "budgets"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rows from before keep NULL: nobody asked."""
    for name, kind in (
        ("p_router", sa.Double),
        ("worst_token_logprob", sa.Double),
        ("p_judge_ok", sa.Double),
        ("agreement", sa.JSON),
    ):
        op.add_column("requests", sa.Column(name, kind))
