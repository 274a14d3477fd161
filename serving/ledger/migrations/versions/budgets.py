"""Create the tables of budgets, of what was spent in each window, and of what is reserved now."""

import sqlalchemy as sa
from alembic import op

revision = "budgets"
down_revision = "feedback_and_samples"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Spend has a table of its own, because a limit may be removed and set again within a window."""
    op.create_table(
        "budgets",
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("period", sa.Text, primary_key=True),
        sa.Column("hard_usd", sa.Double),
        sa.Column("soft_usd", sa.Double),
    )
    op.create_table(
        "budget_spend",
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("subject", sa.Text, primary_key=True),
        sa.Column("period", sa.Text, primary_key=True),
        sa.Column("starts", sa.Date, primary_key=True),
        sa.Column("spent_usd", sa.Double, nullable=False),
    )
    op.create_table(
        "budget_reservations",
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("scope", sa.Text, primary_key=True),
        sa.Column("period", sa.Text, primary_key=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("starts", sa.Date, nullable=False),
        sa.Column("amount_usd", sa.Double, nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("ix_budget_reservations_subject", "budget_reservations", ["scope", "subject", "period"])
