"""Checks a candidate before promotion: files intact, no poisoned or held-out training data, better than what runs.

Any other candidate is refused by name. routing/learning/promotion.py has the arithmetic.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from models.flywheel.refused import Refused
from models.flywheel.registry import ArtefactKind, ArtefactManifest, Registry
from models.heads.artefact import read_questions
from routing.heads.evidence import Evidence, HeadKind
from routing.heads.head import Panel
from routing.learning.labels import Pair, question_key
from routing.learning.promotion import Comparison, Margins, Outcomes, RefusalReason, compare, refusals
from serving.artefacts.heads import read_panel
from serving.errors import ConfigInvalid


def judge_head(registry: Registry, name: str, heldout: Sequence[Pair], margins: Margins) -> Comparison:
    """Compare a router or gate head with what runs, on labels that neither has seen. Raises Refused."""
    manifest = checked(registry, name)
    kind = HeadKind(manifest.kind)
    panel = open_head(registry, name, kind)
    trained = read_questions(registry.folder(name), kind)
    if seen := [pair.id for pair in heldout if question_key(pair.prompt) in trained]:
        raise Refused(
            RefusalReason.LEAKED, f"{len(seen)} held-out prompts are in its training data, for example {seen[0]}"
        )
    if not heldout:
        raise Refused(RefusalReason.TOO_FEW, "no held-out label")
    check_signal(panel)
    running = registry.release().stable.artefacts.get(manifest.kind)
    candidate = head_outcomes(panel, heldout)
    before = (
        better_constant(heldout, margins)
        if running is None
        else head_outcomes(open_head(registry, running, kind), heldout)
    )
    ok = np.array([float(pair.tier1_ok) for pair in heldout])
    comparison = compare(before, candidate, ok, [pair.category for pair in heldout], margins)
    refuse(comparison, margins)
    return comparison


def judge_adapter(
    registry: Registry, name: str, running: Mapping[str, float], candidate: Mapping[str, float],
    categories: Mapping[str, str], margins: Margins,
) -> Comparison:  # fmt: skip
    """Compare tier 1 with an adapter against tier 1 as it runs, by grades of the same task ids. Raises Refused."""
    checked(registry, name)
    ids = sorted(set(running) & set(candidate))
    if not ids or len(ids) < max(len(running), len(candidate)):
        raise Refused(RefusalReason.TOO_FEW, f"{len(ids)} tasks are graded for both; grade the same tasks for both")
    nobody = np.zeros(len(ids))
    before = Outcomes(np.array([running[i] for i in ids]), nobody)
    after = Outcomes(np.array([candidate[i] for i in ids]), nobody)
    comparison = compare(before, after, nobody, [categories[i] for i in ids], margins)
    refuse(comparison, margins)
    return comparison


def check_signal(panel: Panel) -> None:
    """Labels that were shuffled cannot be predicted out of fold, whatever calibration makes of them later.

    The bound is the one-sided 95 % quantile of an AUROC under chance, sqrt(1 / 3n) being its standard error with
    classes of one size (Hanley and McNeil 1982), a fifth wider for others. Raises Refused.
    """
    n = panel.manifest.n_pairs
    bound = 0.5 + 1.2 * 1.645 / math.sqrt(3 * n)
    for name, value in panel.manifest.metrics.items():
        if name.endswith("/auroc_bad_draft") and value is not None and value <= bound:
            raise Refused(
                RefusalReason.NO_SIGNAL, f"{name} {value:.3f} out of fold on {n} labels; chance reaches {bound:.3f}"
            )


def checked(registry: Registry, name: str) -> ArtefactManifest:
    """The verified manifest of an artefact whose data nobody poisoned. Raises Refused."""
    manifest = registry.verified(name)
    if manifest.not_believed:
        raise Refused(
            RefusalReason.POISONED,
            f"its labels hold the word of {', '.join(manifest.not_believed)}, which surer graders contradict",
        )
    return manifest


def refuse(comparison: Comparison, margins: Margins) -> None:
    """Raises Refused with every reason there is."""
    if found := refusals(comparison, margins):
        raise Refused(found[0].reason, found[0].detail, *found[1:])


def open_head(registry: Registry, name: str, kind: HeadKind) -> Panel:
    """The head of an artefact. Raises Refused naming what does not fit."""
    try:
        return read_panel(registry.folder(name), kind)
    except ConfigInvalid as error:
        reason = next((r for word, r in REASON_OF_WORD.items() if word in error.message), RefusalReason.NOT_AN_ARTEFACT)
        raise Refused(reason, error.message) from error


REASON_OF_WORD = {"sha256": RefusalReason.WRONG_HASH, "labels (": RefusalReason.WRONG_LABELS}


def head_outcomes(panel: Panel, pairs: Sequence[Pair]) -> Outcomes:
    """What a head would have done with graded requests; a category without a threshold goes to the frontier."""
    thresholds = panel.manifest.thresholds[0].by_category if panel.manifest.thresholds else {}
    is_gate = panel.manifest.kind is HeadKind.GATE
    p = np.array(
        [
            panel.score(
                Evidence(pair.prompt, pair.category, pair.tier1_output or "", pair.tier1_answer)
                if is_gate
                else Evidence(pair.prompt, pair.category)
            ).p_tier1_ok
            for pair in pairs
        ]
    )
    needs = [thresholds[pair.category].threshold if pair.category in thresholds else None for pair in pairs]
    stays = np.array([need is not None and value >= need for value, need in zip(p, needs, strict=True)])
    return Outcomes(shown_quality(pairs, stays), 1.0 - stays, p)


def better_constant(pairs: Sequence[Pair], margins: Margins) -> Outcomes:
    """Before a first artefact: everything to one tier, whichever is worth more. A candidate has to beat it."""
    n = len(pairs)
    both = [Outcomes(shown_quality(pairs, np.full(n, stays)), np.full(n, 1.0 - stays)) for stays in (False, True)]
    return max(both, key=lambda o: float(o.quality.mean() - margins.frontier_call_worth * o.sent.mean()))


def shown_quality(pairs: Sequence[Pair], stays: np.typing.NDArray[np.bool_]) -> np.typing.NDArray[np.float64]:
    """Grade of the answer that is shown."""
    tier1, frontier = (np.array([getattr(pair, q) for pair in pairs]) for q in ("tier1_quality", "frontier_quality"))
    return np.where(stays, tier1, frontier)


def read_graded(path: Path) -> tuple[dict[str, float], dict[str, str]]:
    """(quality, category) by task id, as `python -m benchmarks tasks grade` prints them. Raises Refused."""
    try:
        lines = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines() if text.strip()]
        return {x["id"]: float(x["quality"]) for x in lines}, {x["id"]: str(x["category"]) for x in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Refused(RefusalReason.TOO_FEW, f"{path} holds no graded answers: {error!r}") from error


KINDS_WITH_HEADS = frozenset({ArtefactKind.ROUTER, ArtefactKind.GATE})
