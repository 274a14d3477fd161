"""Uses trained heads to choose a tier and to judge drafts.

A quality target is a share of the frontier's quality. The artefact has thresholds for each calibrated target, chosen on
labels (models/heads/calibrate.py). A category that was never calibrated goes to the frontier.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from routing.gate.config import GateConfig
from routing.gate.judge import judge, logprob_summary, next_signal
from routing.gate.signal_order import Ruling, rule
from routing.gate.watch import bounded
from routing.heads.evidence import Evidence, Reads, readable
from routing.heads.head import Panel
from routing.heads.manifest import ThresholdSet
from routing.ladder.policy import PolicyConfig, quality_target
from routing.records import (
    Api,
    ChoiceEvidence,
    Decision,
    DecisionReason,
    DraftEvidence,
    RejectReason,
    RequestedModel,
    RequestFeatures,
    Signal,
    Tier,
    Verdict,
)
from routing.text.answers import answer_of, answers_like
from routing.text.request_body import asked_text


@dataclass(frozen=True)
class Learned:
    """The trained heads of a stack. None: the configuration's thresholds and checks decide alone."""

    router: Panel | None = None
    gate: Panel | None = None


def decide_by_head(
    requested: RequestedModel,
    body: Mapping[str, Any],
    api: Api,
    features: RequestFeatures,
    p_router: float | None,
    heads: Learned,
    policy: PolicyConfig,
) -> Decision:
    """Tier 1 when the router head's p_tier1_ok reaches the threshold of the request's category and quality target.

    p_router: the router model's score. None: it is down or absent, and the head works without it.
    In front of a learned gate the threshold is the one of least expected cost. Without one, it is the threshold that
    keeps the quality target by itself.
    """
    assert heads.router is not None
    evidence = Evidence(readable(asked_text(body, api)), features.category, p_router=p_router)
    p = heads.router.score(evidence).p_tier1_ok
    target = quality_target(requested, features.category, heads.router.quality_targets, policy)
    if heads.gate is not None:
        joint = (j.by_category for j in heads.router.manifest.joint if j.quality_target == target)
        needs = next(joint, {}).get(features.category)
    else:
        known = [t for t in heads.router.sequences(target) if t.looks[0].reads.known(evidence)]
        promised = known[-1].by_category.get(features.category) if known else None
        needs = None if promised is None else promised.threshold
    if needs is None:
        return Decision(tier=Tier.FRONTIER, reason=DecisionReason.NO_LABELS, p_tier1_ok=p, p_router=p_router)
    high = p >= needs
    return Decision(
        tier=Tier.TIER1 if high else Tier.FRONTIER,
        reason=DecisionReason.SCORE_HIGH if high else DecisionReason.SCORE_LOW,
        p_tier1_ok=p,
        threshold=needs,
        p_router=p_router,
    )


@dataclass(frozen=True)
class Look:
    """A learned gate's ruling on a draft after the signals it has: accept, reject, or ask for the signal `buy`."""

    ruling: Ruling
    p_accept: float
    buy: Signal | None = None


def ruling(
    body: Mapping[str, Any],
    features: RequestFeatures,
    evidence: DraftEvidence,
    config: GateConfig,
    learned: "LearnedGate | None",
) -> tuple[Verdict, Signal | None]:
    """The verdict on what is known, and the paid signal that can still change it. None: the verdict is final."""
    verdict = judge(body, features, evidence, config)
    if learned is None:
        return verdict, next_signal(verdict, evidence, config)
    if not verdict.accepted:
        return verdict, None
    look = learned.look(evidence)
    accepted = look.ruling is Ruling.ACCEPT
    reasons = () if accepted else (RejectReason.P_ACCEPT,)
    return verdict.model_copy(update={"accepted": accepted, "reasons": reasons, "p_accept": look.p_accept}), look.buy


class LearnedGate:
    """A gate head bound to one request, with the thresholds of its quality target and their sequence of steps."""

    def __init__(
        self, panel: Panel, requested: RequestedModel, body: Mapping[str, Any], api: Api, features: RequestFeatures,
        policy: PolicyConfig, *, may_ask_router: bool,
    ) -> None:  # fmt: skip
        target = quality_target(requested, features.category, panel.quality_targets, policy)
        walks = [w for w in panel.sequences(target) if may_ask_router or not any(k.reads.verdict for k in w.looks)]
        self._panel = panel
        self._walk: ThresholdSet | None = walks[-1] if walks else None
        self._prompt, self._category = readable(asked_text(body, api)), features.category

    def look(self, draft: DraftEvidence) -> Look:
        """Take the steps that the evidence allows. Reject when a signal was asked for and did not come."""
        promised = None if self._walk is None else self._walk.by_category.get(self._category)
        if self._walk is None or promised is None or promised.threshold is None:
            return Look(Ruling.REJECT, 0.0)
        evidence = [self._evidence(choice, draft) for choice in draft.choices]
        ps: list[float] = []
        for number, step in enumerate(self._walk.looks):
            if not all(step.reads.known(e) for e in evidence):
                signal = signal_of(self._walk.looks[number - 1].reads, step.reads) if number else None
                if not ps or signal is None or signal in draft.asked:
                    return Look(Ruling.REJECT, min(ps, default=0.0))
                return Look(Ruling.BUY, ps[-1], signal)
            ps.append(min(self._panel.score(e, step.reads).p_tier1_ok for e in evidence))
            ruling = rule(ps, [look.price_ratio for look in self._walk.looks], promised.threshold)
            if ruling is not Ruling.BUY:
                return Look(ruling, ps[-1])
        raise AssertionError("the last step always rules")

    def _evidence(self, choice: ChoiceEvidence, draft: DraftEvidence) -> Evidence:
        text = choice.text or "\n".join(f"{call.name}({call.arguments})" for call in choice.tool_calls)
        answer = answer_of(text)
        mean, _ = logprob_summary(choice.token_logprobs, 1)
        return Evidence(
            self._prompt,
            self._category,
            text,
            answer,
            () if draft.agreement is None else answers_like(answer, draft.agreement),
            mean_logprob=mean,
            worst_token_logprob=min(map(bounded, choice.token_logprobs), default=None),
            p_judge_ok=draft.p_judge_ok,
        )


def signal_of(before: Reads, after: Reads) -> Signal | None:
    """The signal that leads from one step to the next. None: no signal does."""
    if after.verdict and not before.verdict:
        return Signal.VERDICT
    return Signal.SAMPLES if after.n_answers > before.n_answers else None
