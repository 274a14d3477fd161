"""Judge a draft: is it good enough to show? Watches it token by token, then rules on the whole."""

from pydantic import Field

from routing.schema import Record


class GateConfig(Record):
    """When a tier-1 draft is good enough to show. Rates and windows count tokens; logprobs are nats per token."""

    min_mean_logprob: float | None = Field(None, le=0, description="reject below; None: not checked")
    min_window_logprob: float | None = Field(None, le=0, description="reject when any window's mean is below; None: off")
    window_tokens: int = Field(16, ge=1)
    max_repeat_ratio: float = Field(0.5, ge=0, le=1, description="share of repeated word 4-grams that is a loop")
    loop_min_tokens: int = Field(48, ge=8, description="no loop is called before this many tokens")
    abort_on_loop: bool = True
    abort_on_refusal: bool = True
    abort_window_logprob: float | None = Field(None, le=0, description="logprob collapse while drafting; None: off")
    reject_truncated: bool = Field(True, description="finish_reason length counts as truncated unless the client set the limit")
    check_language: bool = True
    judge_threshold: float | None = Field(None, ge=0, le=1, description="ask the router model; reject below; None: not asked")
