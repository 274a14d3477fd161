"""The frozen records that cross folders: what a request is, what was decided, what each attempt cost.

Everything here is a value. `serving` fills them, `routing` decides on them, `models` learns from them.
"""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """A frozen value. Unknown fields are an error, so a misspelled one cannot be lost silently."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Tier(StrEnum):
    """Which model class answers. The router only scores."""

    ROUTER = "router"
    TIER1 = "tier1"
    FRONTIER = "frontier"


class RequestedModel(StrEnum):
    """The model names a client may ask for."""

    AUTO = "auto"
    AUTO_CHEAP = "auto:cheap"
    AUTO_QUALITY = "auto:quality"
    TIER1 = "tier1"
    FRONTIER = "frontier"


class Api(StrEnum):
    """Which OpenAI endpoint the request came through. It decides the wire format of the response."""

    CHAT = "chat.completions"
    COMPLETIONS = "completions"


class Usage(Record):
    """Tokens of one attempt, as the engine or the provider counted them.

    cached_tokens and cache_write_tokens are parts of input_tokens (0 <= part <= input_tokens). None: not reported.
    estimated: True when a tokenizer of ours counted because the provider did not.
    """

    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    cached_tokens: int | None = Field(None, ge=0)
    cache_write_tokens: int | None = Field(None, ge=0)
    estimated: bool = False


class RequestFeatures(Record):
    """What the policy may know about a request before any model has read it (routing/ladder/features.py fills it)."""

    category: str = Field(description="built in (routing/text/categories.py) or one of PolicyConfig.categories")
    input_tokens: int = Field(ge=0, description="tier-1 tokens of the rendered prompt")
    max_output_tokens: int | None = Field(None, ge=1, description="the client's limit. None: up to the context")
    n_messages: int = Field(ge=0)
    n_tools: int = Field(0, ge=0)
    tool_choice_required: bool = False
    json_output: bool = Field(False, description="response_format json_object or json_schema")
    n_choices: int = Field(1, ge=1)
    language: str | None = Field(None, description="ISO 639-1 of the last user message when clear, else None")


class DecisionReason(StrEnum):
    """Why a tier was chosen. A closed set, used as a metric label."""

    REQUESTED = "requested"
    TENANT_PIN = "tenant_pin"
    CONTEXT = "context"
    TOOLS = "tools"
    CATEGORY = "category"
    SCORE_HIGH = "score_high"
    SCORE_LOW = "score_low"
    NO_SCORE = "no_score"
    BUDGET = "budget"  # a limit left only tier 1
    NO_LABELS = "no_labels"  # a learned policy that has too few labels of the category to promise anything


class Decision(Record):
    """The tier a request goes to first, and why."""

    tier: Tier
    reason: DecisionReason
    p_tier1_ok: float | None = Field(None, ge=0, le=1)
    threshold: float | None = Field(
        None, ge=0, le=1, description="of the category and quality target. None when a rule decided"
    )
    p_router: float | None = Field(
        None, ge=0, le=1, description="the router model's own score. A learned head reads it"
    )


class RejectReason(StrEnum):
    """Why a draft is not good enough. A closed set, used as a metric label."""

    EMPTY = "empty"
    LOOP = "loop"
    REFUSAL = "refusal"
    LANGUAGE = "language"
    TRUNCATED = "truncated"
    TOOL_CALL = "tool_call"
    SCHEMA = "schema"
    LOGPROB = "logprob"
    LOGPROB_COLLAPSE = "logprob_collapse"
    JUDGE = "judge"
    JUDGE_FAILED = "judge_failed"
    P_ACCEPT = "p_accept"
    TIER1_FAILED = "tier1_failed"
    TIER1_BUSY = "tier1_busy"
    TIER1_TIMEOUT = "tier1_timeout"


class ToolCall(Record):
    """One tool call of a draft, as the engine parsed it."""

    name: str
    arguments: str = Field(description="the raw argument text, not yet parsed")


class ChoiceEvidence(Record):
    """What is known of one choice of a finished (or lost) draft.

    token_logprobs: natural-log probability of each sampled token, shape (output_tokens,). Empty when not reported.
    watched: the faults that DraftWatch saw while it was written. None: nobody watched, so the gate checks itself.
    """

    text: str
    finish_reason: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    token_logprobs: tuple[float, ...] = ()
    output_tokens: int = Field(0, ge=0)
    watched: tuple[RejectReason, ...] | None = None


class DraftEvidence(Record):
    """The draft as the gate sees it: every choice, and the results of the paid checks (None: not asked)."""

    choices: tuple[ChoiceEvidence, ...]
    p_judge_ok: float | None = Field(None, ge=0, le=1, description="of the worst choice")
    agreement: "Agreement | None" = None
    asked: tuple["Signal", ...] = Field((), description="paid signals that were asked for, including those that failed")


class Signal(StrEnum):
    """The paid signals that the gate can ask for, beyond what the draft itself shows for free."""

    VERDICT = "verdict"  # the router model's one-token verdict on question and draft
    SAMPLES = "samples"  # further short answers of tier 1 to the same prompt


class Agreement(Record):
    """How many further samples of tier 1 give the draft's answer.

    n_rival: size of the largest group that gives another answer. n_agree + n_rival <= n_samples.
    """

    n_samples: int = Field(ge=1)
    n_agree: int = Field(ge=0)
    n_rival: int = Field(ge=0)


class Verdict(Record):
    """The gate's ruling, never an exception. reasons is empty exactly when accepted."""

    accepted: bool
    reasons: tuple[RejectReason, ...] = ()
    p_accept: float | None = Field(None, ge=0, le=1)
    mean_logprob: float | None = Field(None, le=0, description="nats per token")
    worst_window_logprob: float | None = Field(None, le=0, description="lowest mean over a window of tokens, nats")
    worst_token_logprob: float | None = Field(None, le=0, description="of the least likely token, nats")
    p_judge_ok: float | None = Field(None, ge=0, le=1, description="the router model's verdict. None: not asked")
    agreement: Agreement | None = None


class AttemptKind(StrEnum):
    """What an attempt was for. A retry is a further frontier attempt with try_number > 1."""

    ROUTER = "router"
    DRAFT = "draft"
    SAMPLE = "sample"
    JUDGE = "judge"
    FRONTIER = "frontier"
    SHADOW = "shadow"


class ReplicaMode(StrEnum):
    """What the choice of a replica was based on. A closed set, used as a metric label."""

    EXACT = "exact"  # its cache as the engine reports it
    MIRROR = "mirror"  # a model of its cache
    FALLBACK = "fallback"  # nothing: the shorter of two queues


class ReplicaChoice(Record):
    """How the replica of an attempt was chosen. expected_cached_tokens: None when nothing was known of its cache."""

    mode: ReplicaMode
    expected_cached_tokens: int | None = Field(None, ge=0)


class AttemptOutcome(StrEnum):
    """How an attempt ended."""

    SERVED = "served"  # its answer reached the client
    USED = "used"  # a score or verdict that entered the decision
    REJECTED = "rejected"  # a complete draft the gate refused
    ABORTED = "aborted"  # stopped early by us: lost draft
    CANCELLED = "cancelled"  # the client left
    FAILED = "failed"
    BROKEN = "broken"  # failed after its first byte was released


class Attempt(Record):
    """One call of one model, settled. Times are seconds since the request began. None: never happened."""

    kind: AttemptKind
    tier: Tier
    provider: str = Field(description="'self' for our own engines, else the provider's name in the config")
    model: str
    try_number: int = Field(1, ge=1)
    outcome: AttemptOutcome
    error: str | None = Field(None, description="error code of serving/errors.py, never free text")
    usage: Usage | None = None
    started_s: float = Field(ge=0)
    ttft_s: float | None = Field(None, ge=0)
    duration_s: float = Field(ge=0)
    engine_s: float | None = Field(
        None, ge=0, description="share of busy engine seconds (routing/cost/attempt.py SharedClock)"
    )
    replica_id: str | None = None
    replica_choice: ReplicaChoice | None = Field(None, description="None: there was one replica, or none was asked")
    cost_usd: float | None = Field(None, ge=0, description="None: the price is unknown (an alarm), never 0")
    price_source: str | None = Field(None, description="where the price came from and its date")


class RequestOutcome(StrEnum):
    """How the request ended for the client."""

    OK = "ok"
    ERROR = "error"
    CANCELLED = "cancelled"
    BROKEN = "broken"  # an error frame after released bytes


class RequestRecord(Record):
    """One request with all its attempts: what the ledger stores and the flywheel reads."""

    request_id: str
    at: str = Field(description="UTC, ISO 8601 with microseconds, the only wall-clock value")
    tenant: str
    api: Api
    requested_model: RequestedModel
    served_tier: Tier | None = None
    served_model: str | None = None
    stream: bool
    outcome: RequestOutcome
    status: int = Field(description="HTTP status sent. 499 when the client left first")
    error: str | None = None
    features: RequestFeatures | None = None
    decision: Decision | None = None
    verdict: Verdict | None = None
    held_s: float | None = Field(None, ge=0, description="seconds the finished or streaming draft was held back")
    ttft_s: float | None = Field(None, ge=0)
    duration_s: float = Field(ge=0)
    degraded: bool = False
    cost_usd: float | None = Field(None, ge=0, description="sum over attempts. None when one of them is unknown")
    baseline_cost_usd: float | None = Field(None, ge=0, description="the same request at the frontier, warm cache")
    config_hash: str
    session_id: str | None = None
    attempts: tuple[Attempt, ...] = ()
