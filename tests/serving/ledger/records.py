"""Every record that can be booked, as hypothesis strategies."""

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st

from routing.records import (
    Agreement,
    Api,
    Attempt,
    AttemptKind,
    AttemptOutcome,
    Decision,
    DecisionReason,
    Record,
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


def _whole(model: type[Record], /, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Values of a model with every field drawn. A new field of the schema has to be named here, too."""
    assert set(fields) == set(model.model_fields), set(fields) ^ set(model.model_fields)
    return st.builds(model, **fields)


_texts = st.text(max_size=20)  # Unicode without lone surrogates, which have a test of their own
_seconds = st.floats(0, 1e6)
_dollars = st.floats(0, 1e4)
_ratios = st.floats(0, 1)
_logprobs = st.floats(-100, 0)
_tokens = st.integers(0, 2**31 - 1)
_no = st.none()
_usages = _whole(
    Usage,
    input_tokens=_tokens,
    output_tokens=_tokens,
    cached_tokens=_no | _tokens,
    cache_write_tokens=_no | _tokens,
    estimated=st.booleans(),
)
_choices = _whole(
    ReplicaChoice,
    mode=st.sampled_from(ReplicaMode),
    expected_cached_tokens=_no | _tokens,
)
_attempts = _whole(
    Attempt,
    kind=st.sampled_from(AttemptKind),
    tier=st.sampled_from(Tier),
    provider=_texts,
    model=_texts,
    try_number=st.integers(1, 9),
    outcome=st.sampled_from(AttemptOutcome),
    error=_no | _texts,
    usage=_no | _usages,
    started_s=_seconds,
    ttft_s=_no | _seconds,
    duration_s=_seconds,
    engine_s=_no | _seconds,
    replica_id=_no | _texts,
    replica_choice=_no | _choices,
    cost_usd=_no | _dollars,
    price_source=_no | _texts,
)
_features = _whole(
    RequestFeatures,
    category=_texts,
    input_tokens=_tokens,
    max_output_tokens=_no | st.integers(1, 10**6),
    n_messages=st.integers(0, 1000),
    n_tools=st.integers(0, 100),
    tool_choice_required=st.booleans(),
    json_output=st.booleans(),
    n_choices=st.integers(1, 8),
    language=_no | _texts,
)
_decisions = _whole(
    Decision,
    tier=st.sampled_from(Tier),
    reason=st.sampled_from(DecisionReason),
    p_tier1_ok=_no | _ratios,
    threshold=_no | _ratios,
    p_router=_no | _ratios,
)
_agreements = st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 4)).map(
    lambda n: Agreement(n_samples=sum(n), n_agree=n[0], n_rival=n[1])
)
_verdicts = _whole(
    Verdict,
    accepted=st.booleans(),
    reasons=st.lists(st.sampled_from(RejectReason), max_size=3).map(tuple),
    p_accept=_no | _ratios,
    mean_logprob=_no | _logprobs,
    worst_window_logprob=_no | _logprobs,
    worst_token_logprob=_no | _logprobs,
    p_judge_ok=_no | _ratios,
    agreement=_no | _agreements,
)
anything: st.SearchStrategy[RequestRecord] = _whole(
    RequestRecord,
    request_id=st.uuids().map(str),
    at=st.datetimes(datetime(1971, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC)).map(
        lambda at: at.isoformat(timespec="microseconds")
    ),
    tenant=_texts,
    api=st.sampled_from(Api),
    requested_model=st.sampled_from(RequestedModel),
    served_tier=_no | st.sampled_from(Tier),
    served_model=_no | _texts,
    stream=st.booleans(),
    outcome=st.sampled_from(RequestOutcome),
    status=st.integers(100, 599),
    error=_no | _texts,
    features=_no | _features,
    decision=_no | _decisions,
    verdict=_no | _verdicts,
    held_s=_no | _seconds,
    ttft_s=_no | _seconds,
    duration_s=_seconds,
    degraded=st.booleans(),
    cost_usd=_no | _dollars,
    baseline_cost_usd=_no | _dollars,
    config_hash=_texts,
    session_id=_no | _texts,
    attempts=st.lists(_attempts, max_size=4).map(tuple),
)
