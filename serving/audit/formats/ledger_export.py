"""Our own export (`python -m serving ledger export`): each line is one request with its attempts and recorded costs."""

from typing import Annotated

import msgspec

from serving.audit.formats.call import BadRow, Call, seconds

SELF_PROVIDER = "self"


class BookedUsage(msgspec.Struct, gc=False):
    """routing.records.Usage."""

    input_tokens: Annotated[int, msgspec.Meta(ge=0)]
    output_tokens: Annotated[int, msgspec.Meta(ge=0)]
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    estimated: bool = False


class BookedAttempt(msgspec.Struct, gc=False):
    """What the audit needs of routing.records.Attempt."""

    kind: str
    tier: str
    provider: str
    model: str
    outcome: str
    usage: BookedUsage | None = None
    engine_s: float | None = None
    cost_usd: float | None = None


class BookedFeatures(msgspec.Struct, gc=False):
    """What it needs of routing.records.RequestFeatures."""

    category: str
    input_tokens: int


class BookedRequest(msgspec.Struct, gc=False):
    """What it needs of routing.records.RequestRecord."""

    request_id: str
    at: str
    tenant: str
    outcome: str
    attempts: list[BookedAttempt]
    served_tier: str | None = None
    served_model: str | None = None
    features: BookedFeatures | None = None
    cost_usd: float | None = None
    baseline_cost_usd: float | None = None


decode_row = msgspec.json.Decoder(BookedRequest).decode


def read_line(line: bytes) -> list[Call]:
    """One call per attempt. The served one counts as the request, or the last when none was served."""
    return calls_of(decode_row(line))


def calls_of(row: BookedRequest) -> list[Call]:
    """The same, of a row that is already decoded."""
    at_s = seconds(row.at, "at")
    category = row.features.category if row.features else None
    if not row.attempts:
        return [Call("(none)", 0, 0, at_s, None, row.tenant, category, failed=True, recorded_usd=0.0)]
    counted = next((n for n, a in enumerate(row.attempts) if a.outcome == "served"), len(row.attempts) - 1)
    calls = []
    for number, attempt in enumerate(row.attempts):
        usage = attempt.usage or BookedUsage(0, 0)
        cached, written = usage.cached_tokens or 0, usage.cache_write_tokens or 0
        if cached + written > usage.input_tokens:
            raise BadRow(f"attempts[{number}].usage", f"{cached + written} cached of {usage.input_tokens} input tokens")
        calls.append(
            Call(
                attempt.model,
                usage.input_tokens,
                usage.output_tokens,
                at_s,
                attempt.provider,
                row.tenant,
                category,
                cached,
                written,
                estimated=usage.estimated,
                failed=row.outcome != "ok" and number == counted,
                is_request=number == counted,
                recorded_usd=attempt.cost_usd,
                unpriced=attempt.cost_usd is None,
                frontier_usd=row.baseline_cost_usd if number == counted else None,
            )
        )
    return calls
