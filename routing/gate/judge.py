"""Judges whether a finished draft is good enough to show.

`gather` reads all signals, the cheap ones first. `combine` turns them into the verdict. A threshold that is None is not
checked. Without any threshold the gate still stops broken drafts: empty, looping, refused, cut or malformed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from routing.gate.answer_form import json_fits, tool_calls_fit
from routing.gate.config import LOGPROB_FLOOR, GateConfig
from routing.gate.watch import bounded, watched
from routing.records import (
    Agreement,
    ChoiceEvidence,
    DraftEvidence,
    RejectReason,
    RequestFeatures,
    Signal,
    Verdict,
)
from routing.text.language import switched_language
from routing.text.refusals import is_refusal
from routing.text.request_body import has_content

FINISHED: Final = frozenset({"stop", "tool_calls", "function_call"})
# Work whose answer may rightly be in another language than its request.
ANY_LANGUAGE: Final = frozenset({"code", "json", "tools", "classify", "extract", "translate"})


@dataclass(frozen=True, slots=True)
class Signals:
    """Everything the verdict depends on. Of several choices the worst counts.

    faults: what is certainly wrong, each once, cheapest to find first. Logprobs in nats per token.
    """

    faults: tuple[RejectReason, ...]
    mean_logprob: float | None
    worst_window_logprob: float | None
    worst_token_logprob: float | None
    p_judge_ok: float | None
    agreement: Agreement | None


def judge(body: Mapping[str, Any], features: RequestFeatures, evidence: DraftEvidence, config: GateConfig) -> Verdict:
    """The ruling on a finished draft, with every reason there is. Every choice has to pass. Never raises.

    body: the client's OpenAI request body. A judge that is configured and did not answer is a reason to reject.
    """
    return combine(gather(body, features, evidence, config), config)


def next_signal(verdict: Verdict, evidence: DraftEvidence, config: GateConfig) -> Signal | None:
    """The paid signal that could still change a verdict made without it. None: the verdict is final."""
    undecided = config.judge_threshold is not None and set(verdict.reasons) <= {RejectReason.JUDGE_FAILED}
    return Signal.VERDICT if undecided and Signal.VERDICT not in evidence.asked else None


def explored(request_id: str, config: GateConfig) -> bool:
    """Whether this request collects every signal. Its random id decides, so every caller gets the same result."""
    return config.explore_rate > 0 and int(request_id[:8], 16) < config.explore_rate * 2**32


def gather(body: Mapping[str, Any], features: RequestFeatures, evidence: DraftEvidence, config: GateConfig) -> Signals:
    """Read all signals of a draft."""
    found = {reason for choice in evidence.choices for reason in choice_faults(body, features, choice, config)}
    if len(evidence.choices) < features.n_choices:
        found.add(RejectReason.EMPTY)
    summaries = [logprob_summary(choice.token_logprobs, config.window_tokens) for choice in evidence.choices]
    return Signals(
        faults=tuple(reason for reason in RejectReason if reason in found),
        mean_logprob=min((mean for mean, _ in summaries if mean is not None), default=None),
        worst_window_logprob=min((worst for _, worst in summaries if worst is not None), default=None),
        worst_token_logprob=min((bounded(p) for c in evidence.choices for p in c.token_logprobs), default=None),
        p_judge_ok=evidence.p_judge_ok,
        agreement=evidence.agreement,
    )


def combine(signals: Signals, config: GateConfig) -> Verdict:
    """The verdict on the signals."""
    reasons = list(signals.faults)
    if below(signals.mean_logprob, config.min_mean_logprob) or below(
        signals.worst_window_logprob, config.min_window_logprob
    ):
        reasons.append(RejectReason.LOGPROB)
    said = signals.p_judge_ok
    p_judge_ok = said if said is not None and 0 <= said <= 1 else None  # no answer, or none that is a probability
    if config.judge_threshold is not None:
        if p_judge_ok is None:
            reasons.append(RejectReason.JUDGE_FAILED)
        elif p_judge_ok < config.judge_threshold:
            reasons.append(RejectReason.JUDGE)
    return Verdict(
        accepted=not reasons,
        reasons=tuple(reasons),
        mean_logprob=signals.mean_logprob,
        worst_window_logprob=signals.worst_window_logprob,
        worst_token_logprob=signals.worst_token_logprob,
        p_judge_ok=p_judge_ok,
        agreement=signals.agreement,
    )


def choice_faults(
    body: Mapping[str, Any], features: RequestFeatures, choice: ChoiceEvidence, config: GateConfig
) -> set[RejectReason]:
    """What is wrong with one choice."""
    faults = set(watched(choice, config) if choice.watched is None else choice.watched)
    has_text = has_content(choice.text)
    if not has_text and not choice.tool_calls:
        faults.add(RejectReason.EMPTY)
    if is_refusal(choice.text):
        faults.add(RejectReason.REFUSAL)
    if config.check_language and features.category not in ANY_LANGUAGE and switched_language(body, choice.text):
        faults.add(RejectReason.LANGUAGE)
    if choice.finish_reason == "length" and config.reject_truncated and features.max_output_tokens is None:
        faults.add(RejectReason.TRUNCATED)
    if not tool_calls_fit(body, features, choice):
        faults.add(RejectReason.TOOL_CALL)
    if features.json_output and not choice.tool_calls and not json_fits(body, choice.text):
        faults.add(RejectReason.SCHEMA)
    if not faults and choice.finish_reason not in FINISHED | {"length"}:
        faults.add(RejectReason.TRUNCATED)  # the only fault is that the engine never finished
    return faults


def logprob_summary(logprobs: Sequence[float], window: int) -> tuple[float | None, float | None]:
    """(mean, lowest mean over `window` tokens in a row), nats per token. Of all tokens when there are fewer.

    (None, None) without tokens. A value that is no logprob (NaN, infinite, positive) counts as LOGPROB_FLOOR or 0.
    """
    if not logprobs:
        return None, None
    values = np.nan_to_num(np.asarray(logprobs, dtype=np.float64), nan=LOGPROB_FLOOR).clip(LOGPROB_FLOOR, 0.0)
    sums = np.concatenate(([0.0], np.cumsum(values)))
    width = min(window, len(values))
    worst = (sums[width:] - sums[:-width]).min() / width
    return min(float(values.mean()), 0.0), min(float(worst), 0.0)


def below(value: float | None, threshold: float | None) -> bool:
    """Whether both are known and the value is lower."""
    return value is not None and threshold is not None and value < threshold
