"""Create the tables of requests and attempts."""

import sqlalchemy as sa
from alembic import op

revision = "requests_and_attempts"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create both tables as of the first version. Later changes are revisions of their own."""
    op.create_table(
        "requests",
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("api", sa.Text, nullable=False),
        sa.Column("requested_model", sa.Text, nullable=False),
        sa.Column("served_tier", sa.Text),
        sa.Column("served_model", sa.Text),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("category", sa.Text),
        sa.Column("features", sa.JSON),
        sa.Column("decision_tier", sa.Text),
        sa.Column("decision_reason", sa.Text),
        sa.Column("p_tier1_ok", sa.Double),
        sa.Column("threshold", sa.Double),
        sa.Column("accepted", sa.Boolean),
        sa.Column("reject_reasons", sa.JSON),
        sa.Column("p_accept", sa.Double),
        sa.Column("mean_logprob", sa.Double),
        sa.Column("worst_window_logprob", sa.Double),
        sa.Column("held_s", sa.Double),
        sa.Column("ttft_s", sa.Double),
        sa.Column("duration_s", sa.Double, nullable=False),
        sa.Column("degraded", sa.Boolean, nullable=False),
        sa.Column("cost_usd", sa.Double),
        sa.Column("baseline_cost_usd", sa.Double),
        sa.Column("config_hash", sa.Text, nullable=False),
        sa.Column("session_id", sa.Text),
    )
    op.create_table(
        "attempts",
        sa.Column("request_id", sa.Text, sa.ForeignKey("requests.request_id", ondelete="CASCADE"), primary_key=True),
        sa.Column("ordinal", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("tier", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("try_number", sa.Integer, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("error", sa.Text),
        sa.Column("input_tokens", sa.Integer),
        sa.Column("output_tokens", sa.Integer),
        sa.Column("cached_tokens", sa.Integer),
        sa.Column("cache_write_tokens", sa.Integer),
        sa.Column("usage_estimated", sa.Boolean),
        sa.Column("started_s", sa.Double, nullable=False),
        sa.Column("ttft_s", sa.Double),
        sa.Column("duration_s", sa.Double, nullable=False),
        sa.Column("engine_s", sa.Double),
        sa.Column("replica_id", sa.Text),
        sa.Column("cost_usd", sa.Double),
        sa.Column("price_source", sa.Text),
    )
