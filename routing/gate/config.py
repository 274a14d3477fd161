"""When a draft is good enough: the thresholds of the gate."""

from pathlib import Path
from typing import Final

from pydantic import Field

from routing.records import Record

LOGPROB_FLOOR: Final = -100.0  # engines report -inf or -9999 for what they would never sample


class GateConfig(Record):
    """When a tier-1 draft is good enough to show. Rates and windows count tokens. Logprobs are nats per token."""

    artefact: Path | None = Field(
        None, description="folder of a trained gate head. It rules on drafts without a certain fault"
    )
    min_mean_logprob: float | None = Field(None, le=0, description="reject below. None: not checked")
    min_window_logprob: float | None = Field(
        None, le=0, description="reject when any window's mean is below. None: off"
    )
    window_tokens: int = Field(16, ge=1)
    # With 48 and 0.8, 620 of 18,910 public answers (MMLU-Pro, GSM8K, ZeroEval) loop. The right ones among them (52) are
    # lucky guesses, read from a text without an end.
    max_repeat_ratio: float = Field(
        0.8,
        ge=0,
        le=1,
        description="share of repeated word 4-grams in a window that is a loop. See routing/text/loops.py",
    )
    loop_min_tokens: int = Field(48, ge=8, description="no loop is called before this many tokens repeat")
    abort_on_loop: bool = True
    abort_on_refusal: bool = True
    abort_window_logprob: float | None = Field(None, le=0, description="logprob collapse while drafting. None: off")
    reject_truncated: bool = Field(
        True, description="finish_reason length counts as truncated unless the client set the limit"
    )
    check_language: bool = True
    judge_threshold: float | None = Field(
        None, ge=0, le=1, description="ask the router model and reject below. None: not asked"
    )
    explore_rate: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of requests that collect and record every signal, whether or not it can change the verdict."
        " A gate learns from them. Includes requests that ask for tier 1 by name",
    )
    n_samples: int = Field(2, ge=1, le=8, description="further answers of tier 1, where agreement is asked for")
    sample_temperature: float = Field(0.8, gt=0, le=2)
