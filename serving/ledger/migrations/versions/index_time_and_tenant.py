"""Index requests by time and by tenant and time, so that reports and exports read only their range."""

from alembic import op

revision = "index_time_and_tenant"
down_revision = "requests_and_attempts"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The request id comes last: pages of an export continue after (at, request_id)."""
    op.create_index("ix_requests_at", "requests", ["at", "request_id"])
    op.create_index("ix_requests_tenant_at", "requests", ["tenant", "at", "request_id"])
