"""Judge a draft: is it good enough to show? Watches it token by token, then rules on the whole.

`gather` reads all signals, the cheap ones first; `combine` turns them into the verdict. A threshold that is None is not
checked. Without any the gate stops what is broken: empty, looping, refused, cut or malformed drafts.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from pydantic import Field

from routing.answer_form import json_fits, tool_calls_fit
from routing.language import switched_language
from routing.loops import LoopWatch
from routing.refusals import OPENING_CHARS, is_refusal, refuses_everything
from routing.schema import (
    Agreement,
    ChoiceEvidence,
    DraftEvidence,
    Record,
    RejectReason,
    RequestFeatures,
    Signal,
    ToolCall,
    Verdict,
)
from routing.text import has_content

LOGPROB_FLOOR: Final = -100.0  # engines report -inf or -9999 for what they would never sample
FINISHED: Final = frozenset({"stop", "tool_calls", "function_call"})
# Work whose answer may rightly be in another language than its request.
ANY_LANGUAGE: Final = frozenset({"code", "json", "tools", "classify", "extract", "translate"})


class GateConfig(Record):
    """When a tier-1 draft is good enough to show. Rates and windows count tokens; logprobs are nats per token."""

    artefact: Path | None = Field(None, description="folder of a trained gate head; it rules where no fault is certain")
    min_mean_logprob: float | None = Field(None, le=0, description="reject below; None: not checked")
    min_window_logprob: float | None = Field(
        None, le=0, description="reject when any window's mean is below; None: off"
    )
    window_tokens: int = Field(16, ge=1)
    # With 48 and 0.8, 620 of 18,910 public answers (MMLU-Pro, GSM8K, ZeroEval) loop; the right ones among them (52) are
    # lucky guesses read from a text without an end.
    max_repeat_ratio: float = Field(
        0.8, ge=0, le=1, description="share of repeated word 4-grams in a window that is a loop; see routing/loops.py"
    )
    loop_min_tokens: int = Field(48, ge=8, description="no loop is called before this many tokens repeat")
    abort_on_loop: bool = True
    abort_on_refusal: bool = True
    abort_window_logprob: float | None = Field(None, le=0, description="logprob collapse while drafting; None: off")
    reject_truncated: bool = Field(
        True, description="finish_reason length counts as truncated unless the client set the limit"
    )
    check_language: bool = True
    judge_threshold: float | None = Field(
        None, ge=0, le=1, description="ask the router model; reject below; None: not asked"
    )
    explore_rate: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of requests on which every signal is bought and booked, whatever it changes: what a gate"
        " learns from; also where tier 1 was asked for by name",
    )
    n_samples: int = Field(2, ge=1, le=8, description="further answers of tier 1, where agreement is asked for")
    sample_temperature: float = Field(0.8, gt=0, le=2)


class ChoiceWatch:
    """What can be told of one choice while it is written; keeps windows only, so its memory is bounded."""

    __slots__ = ("_config", "_head", "_loops", "_window", "_window_sum", "seen")

    def __init__(self, config: GateConfig) -> None:
        self.seen: set[RejectReason] = set()
        self._config = config
        self._head = ""
        self._loops = LoopWatch(config.loop_min_tokens, config.max_repeat_ratio)
        self._window: deque[float] = deque()
        self._window_sum = 0.0

    def observe(self, text: str, logprobs: Sequence[float]) -> None:
        """Take the next piece."""
        if text:
            if self._loops.feed(text):
                self.seen.add(RejectReason.LOOP)
            if len(self._head) < 2 * OPENING_CHARS:
                self._head += text[: 2 * OPENING_CHARS]
                if refuses_everything(self._head):
                    self.seen.add(RejectReason.REFUSAL)
        if self._config.abort_window_logprob is not None:
            for logprob in logprobs:
                self._slide(bounded(logprob), self._config.abort_window_logprob)

    def end(self) -> None:
        """The choice is complete."""
        if self._loops.end():
            self.seen.add(RejectReason.LOOP)

    def _slide(self, logprob: float, lowest: float) -> None:
        window = self._window
        window.append(logprob)
        self._window_sum += logprob
        if len(window) > self._config.window_tokens:
            self._window_sum -= window.popleft()
        if len(window) == self._config.window_tokens and self._window_sum < lowest * len(window):
            self.seen.add(RejectReason.LOGPROB_COLLAPSE)


@dataclass(slots=True)
class _Choice:
    """A choice in the making."""

    watch: ChoiceWatch
    parts: list[str]
    logprobs: list[float]
    tokens: int = 0
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


class DraftWatch:
    """Watches one draft while it is generated and collects what `judge` needs. Constant time a token."""

    def __init__(self, config: GateConfig, features: RequestFeatures) -> None:
        self._config = config
        self._choices = [_Choice(ChoiceWatch(config), [], []) for _ in range(features.n_choices)]
        self._aborting = set(RejectReason)
        if not config.abort_on_loop:
            self._aborting.discard(RejectReason.LOOP)
        if not config.abort_on_refusal:
            self._aborting.discard(RejectReason.REFUSAL)
        self.lost: RejectReason | None = None

    @property
    def tokens(self) -> int:
        """Tokens watched in the choice that is furthest behind, of those still being written (of all, if none is)."""
        behind = [c.tokens for c in self._choices if c.finish_reason is None] or [c.tokens for c in self._choices]
        return min(behind)

    def observe(self, choice: int, text: str, logprobs: tuple[float, ...], n_tokens: int) -> RejectReason | None:
        """Take the next piece of one choice; why the draft is lost, or None while it is not.

        text: newly generated, how it is cut does not matter. logprobs: nats, of the new tokens; () when not reported.
        """
        at = self._choices[choice]
        if text:
            at.parts.append(text)
        at.logprobs.extend(logprobs)
        at.tokens += n_tokens
        at.watch.observe(text, logprobs)
        return self._check(at)

    def finish(self, choice: int, finish_reason: str | None, tool_calls: tuple[ToolCall, ...]) -> RejectReason | None:
        """One choice is complete; why the draft is lost, or None."""
        at = self._choices[choice]
        at.finish_reason, at.tool_calls = finish_reason, tool_calls
        at.watch.end()
        return self._check(at)

    def evidence(self) -> DraftEvidence:
        """All that was seen of every choice."""
        return DraftEvidence(
            choices=tuple(
                ChoiceEvidence(
                    text="".join(c.parts),
                    finish_reason=c.finish_reason,
                    tool_calls=c.tool_calls,
                    token_logprobs=tuple(c.logprobs),
                    output_tokens=c.tokens,
                    watched=tuple(sorted(c.watch.seen)),
                )
                for c in self._choices
            )
        )

    def _check(self, at: _Choice) -> RejectReason | None:
        if at.watch.seen and self.lost is None:
            self.lost = next((reason for reason in RejectReason if reason in at.watch.seen & self._aborting), None)
        return self.lost


@dataclass(frozen=True, slots=True)
class Signals:
    """All that the verdict rests on; of several choices the worst counts.

    faults: what is wrong for certain, in rising price of finding out, each once. Logprobs in nats per token.
    """

    faults: tuple[RejectReason, ...]
    mean_logprob: float | None
    worst_window_logprob: float | None
    worst_token_logprob: float | None
    p_judge_ok: float | None
    agreement: Agreement | None


def judge(body: Mapping[str, Any], features: RequestFeatures, evidence: DraftEvidence, config: GateConfig) -> Verdict:
    """The ruling on a finished draft, with every reason there is. Every choice has to pass; never raises.

    body: the client's OpenAI request body. A judge that is configured and did not answer is a reason to reject.
    """
    return combine(gather(body, features, evidence, config), config)


def next_signal(verdict: Verdict, evidence: DraftEvidence, config: GateConfig) -> Signal | None:
    """The dear signal that would still change the ruling that was made without it; None: the ruling stands."""
    undecided = config.judge_threshold is not None and set(verdict.reasons) <= {RejectReason.JUDGE_FAILED}
    return Signal.VERDICT if undecided and Signal.VERDICT not in evidence.asked else None


def explored(request_id: str, config: GateConfig) -> bool:
    """Whether every signal is bought on this request; decided by its random id, the same wherever it is asked."""
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
        faults.add(RejectReason.TRUNCATED)  # nothing is wrong but that the engine never finished
    return faults


def watched(choice: ChoiceEvidence, config: GateConfig) -> set[RejectReason]:
    """What a watch would have seen of a choice that nobody watched."""
    watch = ChoiceWatch(config)
    watch.observe(choice.text, choice.token_logprobs)
    watch.end()
    return watch.seen


def logprob_summary(logprobs: Sequence[float], window: int) -> tuple[float | None, float | None]:
    """(mean, lowest mean over `window` tokens in a row), nats per token; of all tokens when there are fewer.

    (None, None) without tokens. What is no logprob (NaN, infinite, positive) counts as LOGPROB_FLOOR or 0.
    """
    if not logprobs:
        return None, None
    values = np.nan_to_num(np.asarray(logprobs, dtype=np.float64), nan=LOGPROB_FLOOR).clip(LOGPROB_FLOOR, 0.0)
    sums = np.concatenate(([0.0], np.cumsum(values)))
    width = min(window, len(values))
    worst = (sums[width:] - sums[:-width]).min() / width
    return min(float(values.mean()), 0.0), min(float(worst), 0.0)


def bounded(logprob: float) -> float:
    """A logprob within LOGPROB_FLOOR..0; NaN is the floor, so that it cannot pass for certainty."""
    return min(logprob, 0.0) if logprob >= LOGPROB_FLOOR else LOGPROB_FLOOR


def below(value: float | None, threshold: float | None) -> bool:
    """Whether both are known and the value is lower."""
    return value is not None and threshold is not None and value < threshold
