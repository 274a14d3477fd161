"""Watches a draft token by token, so that a bad one is stopped early."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from routing.gate.config import LOGPROB_FLOOR, GateConfig
from routing.records import ChoiceEvidence, DraftEvidence, RejectReason, RequestFeatures, ToolCall
from routing.text.loops import LoopWatch
from routing.text.refusals import OPENING_CHARS, refuses_everything


class ChoiceWatch:
    """Checks one choice while it is written. Keeps windows only, so its memory is bounded."""

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
    """A choice that is being written."""

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
        """Take the next piece of one choice. Returns why the draft is lost, or None while it is not.

        text: newly generated, cut anywhere. logprobs: nats, of the new tokens. () when not reported.
        """
        at = self._choices[choice]
        if text:
            at.parts.append(text)
        at.logprobs.extend(logprobs)
        at.tokens += n_tokens
        at.watch.observe(text, logprobs)
        return self._check(at)

    def finish(self, choice: int, finish_reason: str | None, tool_calls: tuple[ToolCall, ...]) -> RejectReason | None:
        """One choice is complete. Returns why the draft is lost, or None."""
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


def watched(choice: ChoiceEvidence, config: GateConfig) -> set[RejectReason]:
    """The faults a watch would have seen in a choice that nobody watched."""
    watch = ChoiceWatch(config)
    watch.observe(choice.text, choice.token_logprobs)
    watch.end()
    return watch.seen


def bounded(logprob: float) -> float:
    """A logprob within LOGPROB_FLOOR..0. NaN becomes the floor, so that it cannot pass for certainty."""
    return min(logprob, 0.0) if logprob >= LOGPROB_FLOOR else LOGPROB_FLOOR
