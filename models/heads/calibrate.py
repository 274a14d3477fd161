"""`python -m models calibrate`: thresholds for a quality target, from labels that the artefact has not seen.

One part of the labels fits the probabilities, the other chooses the thresholds, so that the promise holds for what is
chosen. The report gives both errors per category, and how many labels are missing where there are too few.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.errors import ModelsError
from models.heads.artefact import read_questions, write_manifest
from models.heads.pairs import load_pairs
from routing.gate.signal_order import highest_threshold, looks_taken
from routing.heads.calibration import ERROR_RATE, bad_ratio_for, choose_thresholds, fit_calibration, log_odds
from routing.heads.evidence import Evidence, HeadKind, Reads, evidence_of
from routing.heads.head import Panel
from routing.heads.manifest import JointThresholds, Look, Manifest, ThresholdSet
from routing.learning.labels import Pair, fold_of, question_key
from routing.learning.quality import frontier_ratio_for, quality_curve
from serving.artefacts.heads import read_panel

# train-router leaves the lowest folds of its seed to the calibration: parted by the same seed again, all of them would
# fit probabilities and none would choose thresholds.
OWN_SEED = 1_000_003


class NothingToCalibrate(ModelsError):
    """No label is left that the artefact was not trained on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options for the artefact, the labels and the promise."""
    parser.add_argument("--artefact", type=Path, required=True, metavar="DIR", help="its manifest is rewritten")
    parser.add_argument("--kind", type=HeadKind, choices=list(HeadKind), default=HeadKind.ROUTER)
    parser.add_argument("--pairs", type=Path, nargs="+", required=True, metavar="FILE")
    parser.add_argument(
        "--quality-target",
        type=float,
        nargs="+",
        default=[0.98],
        help="shares of the frontier's quality to keep, 0..1; thresholds are chosen for each",
    )
    parser.add_argument("--error-rate", type=float, default=ERROR_RATE, help="chance that any promise is broken, 0..1")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split of the labels")
    parser.add_argument(
        "--fit-ratio",
        type=float,
        default=0.5,
        help="share of the labels that fits probabilities, the rest chooses thresholds; 0: keep those of the training",
    )
    parser.add_argument(
        "--together",
        action="store_true",
        help="categories with too few labels share one promise over their common traffic",
    )
    parser.add_argument(
        "--signal-price",
        type=float,
        default=0.1,
        help="price of one paid signal of the gate, as a share of a frontier answer's",
    )
    parser.add_argument(
        "--draft-price",
        type=float,
        help="a draft's price, likewise; for --kind router: also choose where a draft pays before this folder's gate",
    )


def run(args: argparse.Namespace) -> str:
    """Calibrate on the files of a command line and report as JSON."""
    done = calibrate_artefact(
        args.artefact,
        args.kind,
        [pair for path in args.pairs for pair in load_pairs(path)],
        Promise(
            tuple(args.quality_target), args.error_rate, args.seed, args.fit_ratio, args.together, args.signal_price
        ),
        args.draft_price,
    )
    return json.dumps(
        {
            "kind": args.kind,
            "quality_targets": args.quality_target,
            "n_pairs": len(done.pairs),
            "n_left_out": done.n_left_out,
            "seed": args.seed,
            "share_of_frontier": {str(t): share_of_frontier(done.pairs, t) for t in args.quality_target},
            "thresholds": [t.model_dump() for t in done.manifest.thresholds],
            "joint": [j.model_dump() for j in done.manifest.joint],
        },
        indent=1,
    )


@dataclass(frozen=True)
class Promise:
    """Says what is to be kept, how surely, and how the labels are split for it."""

    quality_targets: tuple[float, ...]
    error_rate: float = ERROR_RATE
    seed: int = 0
    fit_ratio: float = 0.5
    together: bool = False
    signal_price: float = 0.1


@dataclass(frozen=True)
class Calibrated:
    """The manifest as it was written, and the pairs that it was calibrated on."""

    manifest: Manifest
    pairs: Sequence[Pair]
    n_left_out: int  # pairs whose questions were trained on


def calibrate_artefact(
    folder: Path, kind: HeadKind, offered: Sequence[Pair], promise: Promise, draft_price: float | None = None
) -> Calibrated:
    """Calibrate an artefact on those of the offered pairs that it was not trained on, and rewrite its manifest.

    draft_price: price of a draft as a share of a frontier answer's. For a router it adds joint thresholds, which read
    the gate in the same folder. None: no joint thresholds.
    Raises NothingToCalibrate when no pair is left, ConfigInvalid for an artefact that cannot be read.
    """
    panel = read_panel(folder, kind)
    seen = read_questions(folder, kind)
    if not offered:
        raise NothingToCalibrate("no pairs to calibrate on; bring labels that training has not seen")
    pairs = [pair for pair in offered if question_key(pair.prompt) not in seen]
    if not pairs:
        raise NothingToCalibrate(
            f"all {len(offered)} pairs were trained on; train with --holdout-ratio 0.3 or bring other labels"
        )
    manifest = calibrate(panel, pairs, promise)
    if draft_price is not None and kind is HeadKind.ROUTER:
        gate = read_panel(folder, HeadKind.GATE)
        manifest = with_joint(manifest, replace(panel, manifest=manifest), gate, pairs, draft_price)
    write_manifest(folder, manifest)
    return Calibrated(manifest, pairs, len(offered) - len(pairs))


def calibrate(panel: Panel, pairs: Sequence[Pair], promise: Promise) -> Manifest:
    """Fit probabilities on one part of the questions and choose thresholds on the other. Returns the new manifest."""
    kind = panel.manifest.kind
    evidence = [evidence_of(pair, kind) for pair in pairs]
    part_seed = promise.seed + OWN_SEED
    fitting = np.array([fold_of(pair.prompt, 1000, part_seed) < 1000 * promise.fit_ratio for pair in pairs])
    manifest = panel.manifest
    for reads in all_reads(manifest) if promise.fit_ratio > 0 else ():
        manifest = refitted(replace(panel, manifest=manifest), reads, pairs, evidence, fitting)
    panel = replace(
        panel,
        manifest=manifest,
        heads=[replace(head, card=card) for head, card in zip(panel.heads, manifest.heads, strict=True)],
    )
    chosen = np.flatnonzero(~fitting)
    kept, shown = [pairs[i] for i in chosen], [evidence[i] for i in chosen]
    sets = []
    for looks in sequences(manifest, promise.signal_price):
        able = [i for i, e in enumerate(shown) if fits(panel, looks[0].reads, e)]
        highest = highest_threshold(
            np.array([looked(panel, looks, shown[i]) for i in able]).reshape(-1, len(looks)),
            [look.price_ratio for look in looks],
        )
        bad = np.array([float(not kept[i].tier1_ok) for i in able])
        names = [kept[i].category for i in able]
        for target in promise.quality_targets:
            ratios = {
                c: bad_ratio_for(target, mean_quality([p.frontier_quality for p in pairs if p.category == c]))
                for c in sorted({pair.category for pair in pairs})
            }
            by_category = choose_thresholds(highest, bad, names, ratios, promise.error_rate, together=promise.together)
            sets.append(ThresholdSet(quality_target=target, looks=looks, by_category=by_category))
    return manifest.model_copy(update={"thresholds": tuple(sets)})


def all_reads(manifest: Manifest) -> tuple[Reads, ...]:
    """What the second stages of any head read, poorest first."""
    return tuple(dict.fromkeys(top.reads for card in manifest.heads for top in card.tops))


def sequences(manifest: Manifest, signal_price: float) -> list[tuple[Look, ...]]:
    """The sequences of steps to calibrate. A router takes one step, with its model or without.

    A gate takes a further step after each paid signal.

    Logprobs come with the draft, so a gate that has them starts there.
    """
    reads = all_reads(manifest)
    if manifest.kind is HeadKind.ROUTER:
        return [(Look(reads=r),) for r in reads]
    if any(r.logprobs for r in reads):
        reads = tuple(r for r in reads if r.logprobs)
    looks = [Look(reads=r, price_ratio=signal_price if i else 0.0) for i, r in enumerate(reads)]
    return [tuple(looks[: n + 1]) for n in range(len(looks))]


def fits(panel: Panel, reads: Reads, evidence: Evidence) -> bool:
    """Whether the head of this category has such a stage and the evidence what it reads."""
    tops = panel.head_for(evidence.category).card.tops
    return reads.known(evidence) and any(top.reads == reads for top in tops)


def looked(panel: Panel, looks: Sequence[Look], evidence: Evidence) -> list[float]:
    """Score each step. From the first step whose signal is missing the score is 0, because serving rejects there."""
    ps: list[float] = []
    for look in looks:
        if not fits(panel, look.reads, evidence):
            break
        ps.append(panel.score(evidence, look.reads).p_tier1_ok)
    return ps + [0.0] * (len(looks) - len(ps))


def refitted(
    panel: Panel, reads: Reads, pairs: Sequence[Pair], evidence: Sequence[Evidence], fitting: NDArray[np.bool_]
) -> Manifest:
    """The manifest with one stage's probabilities fitted anew, a head at a time."""
    cards = list(panel.manifest.heads)
    for number, head in enumerate(panel.heads):
        mine = [
            i
            for i in np.flatnonzero(fitting)
            if panel.head_for(pairs[i].category) is head and fits(panel, reads, evidence[i])
        ]
        if mine:
            odds = log_odds(1 - np.array([head.score(evidence[i], reads).gain for i in mine]))
            ok = np.array([float(pairs[i].tier1_ok) for i in mine])
            fresh = fit_calibration(odds, ok, [pairs[i].category for i in mine])
            tops = [t.model_copy(update={"tier1_ok": fresh}) if t.reads == reads else t for t in cards[number].tops]
            cards[number] = cards[number].model_copy(update={"tops": tuple(tops)})
    return panel.manifest.model_copy(update={"heads": tuple(cards)})


def with_joint(manifest: Manifest, router: Panel, gate: Panel, pairs: Sequence[Pair], draft_price: float) -> Manifest:
    """The router's manifest with thresholds of least expected cost in front of the gate, prices in frontier answers.

    Routing to the frontier never shows a bad draft, so the gate's promise holds whatever is chosen here.
    """
    p = np.array([router.score(evidence_of(pair, HeadKind.ROUTER)).p_tier1_ok for pair in pairs])
    names = np.array([pair.category for pair in pairs])
    found = []
    for target in gate.quality_targets:
        longest = gate.sequences(target)[-1]
        prices = [look.price_ratio for look in longest.looks]
        looks = np.array([looked(gate, longest.looks, evidence_of(pair, HeadKind.GATE)) for pair in pairs])
        by_category = {}
        for category, promised in longest.by_category.items():
            if promised.threshold is None:
                continue
            mine = names == category
            taken = looks_taken(looks[mine], prices, promised.threshold)
            accepted = highest_threshold(looks[mine], prices) >= promised.threshold
            cost = draft_price + np.array([sum(prices[:n]) for n in taken]) + ~accepted
            by_category[category] = cheapest_threshold(p[mine], cost)
        found.append(JointThresholds(quality_target=target, by_category=by_category))
    return manifest.model_copy(update={"joint": tuple(found)})


def cheapest_threshold(p: NDArray[np.float64], cost: NDArray[np.float64]) -> float:
    """The threshold on p of least total cost: `cost` for those that reach it, 1 (a frontier answer) for the others."""
    order = np.argsort(-p, kind="stable")
    saved = np.concatenate([[0.0], np.cumsum(1 - cost[order])])
    last_of_tie = np.concatenate([[True], np.append(p[order][1:] != p[order][:-1], True)])
    best = int(np.argmax(np.where(last_of_tie, saved, -np.inf)))
    if best == 0:
        return 1.0
    following = p[order][best] if best < p.size else 0.0
    return float((p[order][best - 1] + following) / 2)  # half-way, so that no label sits on the edge


def mean_quality(grades: Sequence[float]) -> float:
    """Mean of grades in 0..1. At least one grade is needed."""
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
