"""Requests to book: three that a reader would recognise, and any number alike."""

from datetime import UTC, datetime, timedelta

from routing.records import (
    Api,
    Attempt,
    AttemptKind,
    AttemptOutcome,
    Decision,
    DecisionReason,
    RejectReason,
    ReplicaChoice,
    ReplicaMode,
    RequestedModel,
    RequestFeatures,
    RequestOutcome,
    RequestRecord,
    Tier,
    Usage,
    Verdict,
)

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ROUTER = Attempt(
    kind=AttemptKind.ROUTER,
    tier=Tier.ROUTER,
    provider="self",
    model="qwen-0.5b",
    outcome=AttemptOutcome.USED,
    usage=Usage(input_tokens=180, output_tokens=1, cached_tokens=128),
    started_s=0.002,
    ttft_s=0.021,
    duration_s=0.021,
    engine_s=0.012,
    replica_id="router-0",
    cost_usd=0.0000003,
    price_source="rent (2026-01-31)",
)
DRAFT = Attempt(
    kind=AttemptKind.DRAFT,
    tier=Tier.TIER1,
    provider="self",
    model="qwen-7b",
    outcome=AttemptOutcome.SERVED,
    usage=Usage(input_tokens=160, output_tokens=48, cached_tokens=128, cache_write_tokens=0),
    started_s=0.025,
    ttft_s=0.09,
    duration_s=0.61,
    engine_s=0.2,
    replica_id="tier1-1",
    replica_choice=ReplicaChoice(mode=ReplicaMode.EXACT, expected_cached_tokens=128),
    cost_usd=0.00012,
    price_source="rent (2026-01-31)",
)
FRONTIER = Attempt(
    kind=AttemptKind.FRONTIER,
    tier=Tier.FRONTIER,
    provider="acme",
    model="large",
    try_number=2,
    outcome=AttemptOutcome.SERVED,
    usage=Usage(input_tokens=171, output_tokens=60, cached_tokens=0, estimated=True),
    started_s=0.7,
    ttft_s=0.4,
    duration_s=1.9,
    cost_usd=0.0014,
    price_source="list (2026-01-31)",
)
ACCEPTED = RequestRecord(
    request_id="req-accepted",
    at="2026-03-01T12:00:00.000001+00:00",
    tenant="blue",
    api=Api.CHAT,
    requested_model=RequestedModel.AUTO,
    served_tier=Tier.TIER1,
    served_model="qwen-7b",
    stream=True,
    outcome=RequestOutcome.OK,
    status=200,
    features=RequestFeatures(category="code", input_tokens=160, n_messages=2, language="en"),
    decision=Decision(tier=Tier.TIER1, reason=DecisionReason.SCORE_HIGH, p_tier1_ok=0.81, threshold=0.5),
    verdict=Verdict(accepted=True, p_accept=0.9, mean_logprob=-0.2, worst_window_logprob=-0.7),
    held_s=0.52,
    ttft_s=0.64,
    duration_s=0.66,
    cost_usd=0.0001203,
    baseline_cost_usd=0.0009,
    config_hash="c0ffee",
    session_id="s-1",
    attempts=(ROUTER, DRAFT),
)
ESCALATED = ACCEPTED.model_copy(
    update={
        "request_id": "req-escalated",
        "at": "2026-03-01T12:00:01.500000+00:00",
        "served_tier": Tier.FRONTIER,
        "served_model": "large",
        "stream": False,
        "verdict": Verdict(accepted=False, reasons=(RejectReason.LOOP, RejectReason.TRUNCATED), mean_logprob=-1.4),
        "duration_s": 2.6,
        "cost_usd": 0.0015203,
        "baseline_cost_usd": 0.0014,
        "attempts": (ROUTER, DRAFT.model_copy(update={"outcome": AttemptOutcome.REJECTED}), FRONTIER),
    }
)
FAILED = RequestRecord(
    request_id="req-failed",
    at="2026-03-01T12:00:02.000000+00:00",
    tenant="green",
    api=Api.COMPLETIONS,
    requested_model=RequestedModel.FRONTIER,
    stream=False,
    outcome=RequestOutcome.ERROR,
    status=503,
    error="frontier_unavailable",
    duration_s=0.03,
    config_hash="c0ffee",
    attempts=(
        FRONTIER.model_copy(
            update={
                "outcome": AttemptOutcome.FAILED,
                "error": "frontier_unavailable",
                "usage": None,
                "ttft_s": None,
                "cost_usd": None,
                "price_source": None,
            }
        ),
    ),
)
EXAMPLES = (ACCEPTED, ESCALATED, FAILED)


def example(number: int, tenant: str = "blue") -> RequestRecord:
    """The accepted request again, `number` milliseconds later."""
    at = (START + timedelta(milliseconds=number)).isoformat(timespec="microseconds")
    return ACCEPTED.model_copy(update={"request_id": f"req-{number:06d}", "at": at, "tenant": tenant})
