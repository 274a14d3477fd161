"""`python -m models learning-curve`: what the router is worth after so many labels, on labels it has not seen.

Every question is held out once; a head learns from the first n of the others, in shuffled order. With no label the
router model's own word decides. A size that there are not enough labels for is null.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from models.errors import ModelsError
from models.heads.fit import fit_head
from models.heads.pairs import load_pairs
from models.heads.train import ROUTER_FOREST
from routing.heads.evidence import HeadKind, evidence_of
from routing.intervals import bootstrap_interval
from routing.learning.labels import Pair, fold_of
from routing.learning.quality import apgr, auroc, frontier_ratio_for, quality_curve

Floats = NDArray[np.float64]
FOLDS = 6  # five sixths of the labels may train
UNKNOWN = 0.5  # the router model's word where it gave none


class TooFewLabels(ModelsError):
    """There is nothing to draw a curve of."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which labels, which sizes, where to."""
    parser.add_argument("--pairs", type=Path, nargs="+", required=True, metavar="FILE", help="graded pairs, JSON lines")
    parser.add_argument("--sizes", type=int, nargs="+", default=[0, 300, 1000, 3000], help="labels to learn from")
    parser.add_argument("--quality-target", type=float, default=0.9, help="share of the frontier's quality to keep")
    parser.add_argument("--out", type=Path, metavar="DIR", help="learning-curve.json and .png")
    parser.add_argument("--seed", type=int, default=0, help="of the order of labels")


def run(args: argparse.Namespace) -> str:
    """One row a size."""
    pairs = [pair for path in args.pairs for pair in load_pairs(path)]
    rows = [row(pairs, size, args.quality_target, args.seed) for size in tqdm(args.sizes, desc="sizes", unit="size")]
    found = {"n_labels": len(pairs), "quality_target": args.quality_target, "rows": rows}
    if args.out is not None:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "learning-curve.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        draw(found, args.out / "learning-curve.png")
    return json.dumps(found, indent=1)


def row(pairs: Sequence[Pair], size: int, quality_target: float, seed: int) -> dict[str, Any]:
    """AUROC of p(tier 1 will do), APGR, and the frontier calls that keep the target, with intervals; None: too few."""
    p = held_out_scores(pairs, size, seed)
    if p is None:
        return {"labels": size, "auroc": None, "apgr": None, "frontier_share": None}
    tier1, frontier = (np.array([getattr(pair, q) for pair in pairs]) for q in ("tier1_quality", "frontier_quality"))
    ok = (tier1 >= frontier).astype(float)

    def at_target(p: Floats, tier1: Floats, frontier: Floats) -> float | None:
        return frontier_ratio_for(quality_curve(p, tier1, frontier), quality_target)

    def gain(p: Floats, tier1: Floats, frontier: Floats) -> float | None:
        return apgr(quality_curve(p, tier1, frontier))

    return {
        "labels": size,
        "auroc": bootstrap_interval(auroc, [p, ok], n_resamples=300).model_dump(),
        "apgr": bootstrap_interval(gain, [p, tier1, frontier], n_resamples=300).model_dump(),
        "frontier_share": bootstrap_interval(at_target, [p, tier1, frontier], n_resamples=300).model_dump(),
    }


def held_out_scores(pairs: Sequence[Pair], size: int, seed: int) -> Floats | None:
    """p(tier 1 will do) of each pair by a head that has not seen its question, shape (n,); None: too few labels."""
    if not pairs:
        raise TooFewLabels("no label; collect some with `python -m benchmarks tasks run` and `tasks pairs`")
    if size == 0:
        return np.array([UNKNOWN if pair.p_router is None else pair.p_router for pair in pairs])
    fold = np.array([fold_of(pair.prompt, FOLDS, seed) for pair in pairs])
    p = np.zeros(len(pairs))
    for held in range(FOLDS):
        others = [pair for pair, own in zip(pairs, fold, strict=True) if own != held]
        if len(others) < size:
            return None
        drawn = [others[i] for i in np.random.default_rng((seed, held)).permutation(len(others))[:size]]
        head = fit_head(HeadKind.ROUTER, "curve", drawn, ROUTER_FOREST, seed).head
        for i in np.flatnonzero(fold == held):
            p[i] = head.score(evidence_of(pairs[i], HeadKind.ROUTER)).p_tier1_ok
    return p


def draw(found: dict[str, Any], path: Path) -> None:
    """Both figures over the number of labels, as a PNG."""
    import matplotlib as mpl  # noqa: PLC0415 - an extra

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    target = found["quality_target"]
    for axis, key, label in (
        (axes[0], "auroc", "AUROC of p(tier 1 will do)"),
        (axes[1], "frontier_share", f"frontier calls for {target:g} of its quality"),
    ):
        rows = [row for row in found["rows"] if row[key] is not None and row[key]["value"] is not None]
        values = [row[key]["value"] for row in rows]
        ends = [(v - row[key]["low"], row[key]["high"] - v) for v, row in zip(values, rows, strict=True)]
        axis.errorbar(
            [row["labels"] for row in rows], values, yerr=list(zip(*ends, strict=True)), marker="o", capsize=3
        )
        axis.set(xlabel="own labels", ylabel=label, ylim=(0, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)
