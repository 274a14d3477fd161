"""Turns a RequestRecord into table rows and back, without loss."""

from collections.abc import Mapping, Sequence
from typing import Any

from routing.records import Attempt, RequestRecord

Row = dict[str, Any]


def request_row(record: RequestRecord) -> Row:
    """The row of `requests`: decision and verdict spread over typed columns, features kept whole."""
    features, decision, verdict = record.features, record.decision, record.verdict
    return {
        "request_id": record.request_id,
        "at": record.at,
        "tenant": record.tenant,
        "api": record.api.value,
        "requested_model": record.requested_model.value,
        "served_tier": record.served_tier.value if record.served_tier else None,
        "served_model": record.served_model,
        "stream": record.stream,
        "outcome": record.outcome.value,
        "status": record.status,
        "error": record.error,
        "category": features.category if features else None,
        "features": features.model_dump(mode="json") if features else None,
        "decision_tier": decision.tier.value if decision else None,
        "decision_reason": decision.reason.value if decision else None,
        "p_tier1_ok": decision.p_tier1_ok if decision else None,
        "threshold": decision.threshold if decision else None,
        "p_router": decision.p_router if decision else None,
        "accepted": verdict.accepted if verdict else None,
        "reject_reasons": [reason.value for reason in verdict.reasons] if verdict else None,
        "p_accept": verdict.p_accept if verdict else None,
        "mean_logprob": verdict.mean_logprob if verdict else None,
        "worst_window_logprob": verdict.worst_window_logprob if verdict else None,
        "worst_token_logprob": verdict.worst_token_logprob if verdict else None,
        "p_judge_ok": verdict.p_judge_ok if verdict else None,
        "agreement": verdict.agreement.model_dump() if verdict and verdict.agreement else None,
        "held_s": record.held_s,
        "ttft_s": record.ttft_s,
        "duration_s": record.duration_s,
        "degraded": record.degraded,
        "cost_usd": record.cost_usd,
        "baseline_cost_usd": record.baseline_cost_usd,
        "config_hash": record.config_hash,
        "session_id": record.session_id,
    }


def attempt_rows(record: RequestRecord) -> list[Row]:
    """The rows of `attempts`, numbered in the order in which they were begun."""
    return [_attempt_row(record.request_id, ordinal, attempt) for ordinal, attempt in enumerate(record.attempts)]


def _attempt_row(request_id: str, ordinal: int, attempt: Attempt) -> Row:
    usage, choice = attempt.usage, attempt.replica_choice
    return {
        "request_id": request_id,
        "ordinal": ordinal,
        "kind": attempt.kind.value,
        "tier": attempt.tier.value,
        "provider": attempt.provider,
        "model": attempt.model,
        "try_number": attempt.try_number,
        "outcome": attempt.outcome.value,
        "error": attempt.error,
        "input_tokens": usage.input_tokens if usage else None,
        "output_tokens": usage.output_tokens if usage else None,
        "cached_tokens": usage.cached_tokens if usage else None,
        "cache_write_tokens": usage.cache_write_tokens if usage else None,
        "usage_estimated": usage.estimated if usage else None,
        "started_s": attempt.started_s,
        "ttft_s": attempt.ttft_s,
        "duration_s": attempt.duration_s,
        "engine_s": attempt.engine_s,
        "replica_id": attempt.replica_id,
        "replica_mode": choice.mode.value if choice else None,
        "expected_cached_tokens": choice.expected_cached_tokens if choice else None,
        "cost_usd": attempt.cost_usd,
        "price_source": attempt.price_source,
    }


_DECISION = {
    "tier": "decision_tier",
    "reason": "decision_reason",
    "p_tier1_ok": "p_tier1_ok",
    "threshold": "threshold",
    "p_router": "p_router",
}
_VERDICT = {
    "accepted": "accepted",
    "reasons": "reject_reasons",
    "p_accept": "p_accept",
    "mean_logprob": "mean_logprob",
    "worst_window_logprob": "worst_window_logprob",
    "worst_token_logprob": "worst_token_logprob",
    "p_judge_ok": "p_judge_ok",
    "agreement": "agreement",
}
_CHOICE = {"mode": "replica_mode", "expected_cached_tokens": "expected_cached_tokens"}
_USAGE = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_tokens": "cached_tokens",
    "cache_write_tokens": "cache_write_tokens",
    "estimated": "usage_estimated",
}


def record_from_rows(request: Mapping[str, Any], attempts: Sequence[Mapping[str, Any]]) -> RequestRecord:
    """The record that these rows were made from. attempts: in order of `ordinal`."""
    fields = dict(request)
    decision = {name: fields.pop(column) for name, column in _DECISION.items()}
    verdict = {name: fields.pop(column) for name, column in _VERDICT.items()}
    del fields["category"]  # a copy of features.category
    return RequestRecord.model_validate(
        fields
        | {
            "decision": None if decision["tier"] is None else decision,
            "verdict": None if verdict["accepted"] is None else verdict,
            "attempts": [_attempt_fields(row) for row in attempts],
        }
    )


def _attempt_fields(row: Mapping[str, Any]) -> Row:
    fields = dict(row)
    del fields["request_id"], fields["ordinal"]
    usage = {name: fields.pop(column) for name, column in _USAGE.items()}
    choice = {name: fields.pop(column) for name, column in _CHOICE.items()}
    return fields | {
        "usage": None if usage["input_tokens"] is None else usage,
        "replica_choice": None if choice["mode"] is None else choice,
    }
