"""Declares the ledger's tables. JSON columns are only for what has no fixed set of keys."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
)


class UtcInstant(TypeDecorator[str]):
    """An ISO 8601 instant as in RequestRecord.at. The database keeps a timestamp, so that ranges can be queried."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: str | datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC. SQLite keeps no offset, so it gets none. Raises ValueError for what is not an instant."""
        if value is None:
            return None
        instant = datetime.fromisoformat(value) if isinstance(value, str) else value
        if instant.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        instant = instant.astimezone(UTC)
        return instant.replace(tzinfo=None) if dialect.name == "sqlite" else instant

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> str | None:
        """The string that was recorded, microseconds and +00:00 included."""
        if value is None:
            return None
        instant = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return instant.isoformat(timespec="microseconds")


metadata = MetaData()

requests = Table(
    "requests",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("at", UtcInstant, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("api", Text, nullable=False),
    Column("requested_model", Text, nullable=False),
    Column("served_tier", Text),
    Column("served_model", Text),
    Column("stream", Boolean, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("error", Text),
    Column("category", Text),  # of features, on its own because every report groups by it
    Column("features", JSON(none_as_null=True)),
    Column("decision_tier", Text),
    Column("decision_reason", Text),
    Column("p_tier1_ok", Double),
    Column("threshold", Double),
    Column("p_router", Double),
    Column("accepted", Boolean),
    Column("reject_reasons", JSON(none_as_null=True)),
    Column("p_accept", Double),
    Column("mean_logprob", Double),
    Column("worst_window_logprob", Double),
    Column("worst_token_logprob", Double),
    Column("p_judge_ok", Double),
    Column("agreement", JSON(none_as_null=True)),
    Column("held_s", Double),
    Column("ttft_s", Double),
    Column("duration_s", Double, nullable=False),
    Column("degraded", Boolean, nullable=False),
    Column("cost_usd", Double),
    Column("baseline_cost_usd", Double),
    Column("config_hash", Text, nullable=False),
    Column("session_id", Text),
    Index("ix_requests_at", "at", "request_id"),
    Index("ix_requests_tenant_at", "tenant", "at", "request_id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("request_id", Text, ForeignKey("requests.request_id", ondelete="CASCADE"), primary_key=True),
    Column("ordinal", Integer, primary_key=True, autoincrement=False),  # order in which they were begun, from 0
    Column("kind", Text, nullable=False),
    Column("tier", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("try_number", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("error", Text),
    Column("input_tokens", Integer),  # NULL: nobody reported usage, then the three below are NULL too
    Column("output_tokens", Integer),
    Column("cached_tokens", Integer),
    Column("cache_write_tokens", Integer),
    Column("usage_estimated", Boolean),
    Column("started_s", Double, nullable=False),
    Column("ttft_s", Double),
    Column("duration_s", Double, nullable=False),
    Column("engine_s", Double),
    Column("replica_id", Text),
    Column("replica_mode", Text),
    Column("expected_cached_tokens", Integer),
    Column("cost_usd", Double),
    Column("price_source", Text),
)

feedback = Table(
    "feedback",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("at", UtcInstant, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("rating", Integer),  # 1, -1, or NULL for a correction alone
    Column("correction", Text),
    Index("ix_feedback_tenant_at", "tenant", "at"),
)

samples = Table(
    "samples",  # the one table with texts: redacted, of tenants that did not opt out, pruned by age
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("at", UtcInstant, nullable=False),
    Column("tenant", Text, nullable=False),
    Column("category", Text, nullable=False),
    Column("session_id", Text),
    Column("source", Text, nullable=False),
    Column("messages", JSON(none_as_null=True), nullable=False),
    Column("response_format", JSON(none_as_null=True)),
    Column("tier1_output", Text),
    Column("frontier_output", Text),
    Column("tier1_quality", Double),
    Column("frontier_quality", Double),
    Column("grader", Text),
    Column("tier1_model", Text),
    Column("frontier_model", Text),
    Column("config_hash", Text, nullable=False),
    Index("ix_samples_at", "at", "request_id"),
    Index("ix_samples_tenant_at", "tenant", "at"),
)

budgets = Table(
    "budgets",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("period", Text, primary_key=True),
    Column("hard_usd", Double),
    Column("soft_usd", Double),
)

budget_spend = Table(
    "budget_spend",
    metadata,
    Column("scope", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("period", Text, primary_key=True),
    Column("starts", Date, primary_key=True),  # the window's first day, UTC
    Column("spent_usd", Double, nullable=False),
)

budget_reservations = Table(
    "budget_reservations",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("scope", Text, primary_key=True),
    Column("period", Text, primary_key=True),
    Column("subject", Text, nullable=False),
    Column("starts", Date, nullable=False),
    Column("amount_usd", Double, nullable=False),
    Column("expires_at", UtcInstant, nullable=False),  # by then its process must have died
    Index("ix_budget_reservations_subject", "scope", "subject", "period"),
)
