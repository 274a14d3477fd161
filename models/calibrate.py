"""`python -m models calibrate`: thresholds for a quality target, from labels that the artefact has not seen.

Half of the labels fit the probabilities, the other half choose the thresholds, so that the promise holds for what is
chosen. The report gives both errors per category, and how many labels are missing where there are too few.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from models.artefact import read_questions, write_manifest
from models.errors import ModelsError
from models.heads import evidence_of
from models.router.data import load_pairs
from models.router.evaluate import open_panel
from routing.calibration import ERROR_RATE, Calibration, bad_ratio_for, choose_thresholds, fit_calibration, log_odds
from routing.head import Evidence, HeadCard, HeadKind, Manifest, Panel, ThresholdSet
from routing.labels import Pair, fold_of, question_key
from routing.quality import frontier_ratio_for, quality_curve


class NothingToCalibrate(ModelsError):
    """No label is left that the artefact was not trained on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which artefact, which labels, which promise."""
    parser.add_argument("--artefact", type=Path, required=True, metavar="DIR", help="its manifest is rewritten")
    parser.add_argument("--kind", type=HeadKind, choices=list(HeadKind), default=HeadKind.ROUTER)
    parser.add_argument("--pairs", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument(
        "--quality-target", type=float, default=0.98, help="share of the frontier's quality to keep, 0..1"
    )
    parser.add_argument("--error-rate", type=float, default=ERROR_RATE, help="chance that any promise is broken, 0..1")
    parser.add_argument("--seed", type=int, default=0, help="of the halves")


def run(args: argparse.Namespace) -> str:
    """Calibrate, rewrite the manifest, report."""
    panel = open_panel(args.artefact, args.kind)
    seen = read_questions(args.artefact, args.kind)
    offered = [pair for path in args.pairs for pair in load_pairs(path)]
    pairs = [pair for pair in offered if question_key(pair.prompt) not in seen]
    if not pairs:
        raise NothingToCalibrate(
            f"all {len(offered)} pairs were trained on; train with --holdout-ratio 0.3 or bring other labels"
        )
    manifest = calibrate(panel, pairs, args.quality_target, args.error_rate, args.seed)
    write_manifest(args.artefact, manifest)
    return json.dumps(
        {
            "kind": args.kind,
            "quality_target": args.quality_target,
            "n_pairs": len(pairs),
            "n_left_out": len(offered) - len(pairs),
            "seed": args.seed,
            "share_of_frontier": share_of_frontier(pairs, args.quality_target),
            "thresholds": [t.model_dump() for t in manifest.thresholds],
        },
        indent=1,
    )


def calibrate(panel: Panel, pairs: Sequence[Pair], quality_target: float, error_rate: float, seed: int) -> Manifest:
    """The manifest with probabilities fitted on one half of the questions and thresholds chosen on the other."""
    kind, cards = panel.manifest.kind, list(panel.manifest.heads)
    categories = [pair.category for pair in pairs]
    owner = np.array([next(i for i, h in enumerate(panel.heads) if h is panel.head_for(c)) for c in categories])
    fitting = np.array([fold_of(pair.prompt, 2, seed) == 0 for pair in pairs])
    ok = np.array([float(pair.tier1_ok) for pair in pairs])
    targets = {
        category: bad_ratio_for(
            quality_target, mean_quality([p.frontier_quality for p in pairs if p.category == category])
        )
        for category in sorted(set(categories))
    }
    sets = []
    for n_answers in sorted({top.n_answers for card in cards for top in card.tops}):
        scores = [panel.score(with_answers(evidence_of(pair, kind), n_answers)) for pair in pairs]
        odds = log_odds(1 - np.array([s.gain for s in scores]))
        p_ok = np.array([s.p_tier1_ok for s in scores])
        able = np.array([s.n_answers == n_answers for s in scores])
        for number, card in enumerate(cards):
            mine = np.flatnonzero(able & (owner == number))
            fit = mine[fitting[mine]]
            if fit.size:
                fresh = fit_calibration(odds[fit], ok[fit], [categories[i] for i in fit])
                p_ok[mine] = fresh.p_all(odds[mine], [categories[i] for i in mine])
                cards[number] = _with_calibration(card, n_answers, fresh)
        choosing = np.flatnonzero(able & ~fitting)
        names = [categories[i] for i in choosing]
        chosen = choose_thresholds(p_ok[choosing], 1 - ok[choosing], names, targets, error_rate)
        sets.append(ThresholdSet(n_answers=n_answers, by_category=chosen))
    return panel.manifest.model_copy(
        update={"heads": tuple(cards), "thresholds": tuple(sets), "quality_target": quality_target}
    )


def with_answers(evidence: Evidence, n_answers: int) -> Evidence:
    """The evidence with at most so many further answers."""
    return replace(evidence, other_answers=evidence.other_answers[:n_answers])


def _with_calibration(card: HeadCard, n_answers: int, fresh: Calibration) -> HeadCard:
    tops = [t.model_copy(update={"tier1_ok": fresh}) if t.n_answers == n_answers else t for t in card.tops]
    return card.model_copy(update={"tops": tuple(tops)})


def mean_quality(grades: Sequence[float]) -> float:
    """Mean of grades in 0..1; at least one."""
    return float(np.mean(grades))


def share_of_frontier(pairs: Sequence[Pair], quality_target: float) -> dict[str, dict[str, float | int | None]]:
    """Per category: tier 1's quality as a share of the frontier's, and what a perfect choice would have to escalate.

    escalate_at_least: smallest share of requests that any router must send up to keep the target, 0..1, so no saving
    beyond 1 minus it can be promised. None where the frontier is never right.
    """
    report: dict[str, dict[str, float | int | None]] = {}
    for category in sorted({pair.category for pair in pairs}):
        mine = [pair for pair in pairs if pair.category == category]
        tier1, frontier = (np.array([getattr(p, q) for p in mine]) for q in ("tier1_quality", "frontier_quality"))
        oracle = quality_curve(tier1 - frontier, tier1, frontier)
        random = quality_curve(np.zeros(len(mine)), tier1, frontier)
        report[category] = {
            "n": len(mine),
            "tier1_share": float(tier1.mean() / frontier.mean()) if frontier.mean() > 0 else None,
            "escalate_at_least": frontier_ratio_for(oracle, quality_target),
            "escalate_at_random": frontier_ratio_for(random, quality_target),
        }
    return report
