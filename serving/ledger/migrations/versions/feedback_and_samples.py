"""Create the tables that the flywheel learns from: clients' feedback and redacted samples of texts."""

import sqlalchemy as sa
from alembic import op

revision = "feedback_and_samples"
down_revision = "index_time_and_tenant"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No foreign key to requests. Samples expire on their own and may be written before their request's row."""
    op.create_table(
        "feedback",
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("rating", sa.Integer),
        sa.Column("correction", sa.Text),
    )
    op.create_index("ix_feedback_tenant_at", "feedback", ["tenant", "at"])
    op.create_table(
        "samples",
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("category", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("messages", sa.JSON, nullable=False),
        sa.Column("response_format", sa.JSON),
        sa.Column("tier1_output", sa.Text),
        sa.Column("frontier_output", sa.Text),
        sa.Column("tier1_quality", sa.Double),
        sa.Column("frontier_quality", sa.Double),
        sa.Column("grader", sa.Text),
        sa.Column("tier1_model", sa.Text),
        sa.Column("frontier_model", sa.Text),
        sa.Column("config_hash", sa.Text, nullable=False),
    )
    op.create_index("ix_samples_at", "samples", ["at", "request_id"])
    op.create_index("ix_samples_tenant_at", "samples", ["tenant", "at"])
