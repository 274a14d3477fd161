"""Keep what router and gate decided by: the router's score, the least likely token, the judge's verdict, agreement."""

import sqlalchemy as sa
from alembic import op

revision = "gate_signals"
down_revision = "budgets"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Earlier rows keep NULL, because nobody asked then."""
    for name, kind in (
        ("p_router", sa.Double),
        ("worst_token_logprob", sa.Double),
        ("p_judge_ok", sa.Double),
        ("agreement", sa.JSON),
    ):
        op.add_column("requests", sa.Column(name, kind))
