"""Quality against cost with the random line, and reliability diagrams, as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np

from benchmarks.quality.baselines import Scored
from routing.learning.labels import Pair
from routing.learning.quality import quality_curve, reliability

mpl.use("Agg")  # no display where benchmarks run
from matplotlib import pyplot as plt


def plot(folder: Path, name: str, scored: Mapping[str, Scored], test: Sequence[Pair]) -> list[Path]:
    """Write both diagrams of one split. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _quality(folder / f"{name}-quality.png", scored, test),
        _reliable(folder / f"{name}-reliability.png", scored, test),
    ]


def _quality(path: Path, scored: Mapping[str, Scored], test: Sequence[Pair]) -> Path:
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    tier1 = np.array([p.tier1_quality for p in test])
    frontier = np.array([p.frontier_quality for p in test])
    for router, s in scored.items():
        curve = quality_curve(s.p_tier1_ok, tier1, frontier)
        ours = router.startswith("tierwise")
        axes.plot(
            curve.frontier_ratio, curve.quality, label=router, linewidth=2 if ours else 1, alpha=1 if ours else 0.7
        )
    axes.axhline(0.98 * float(frontier.mean()), color="grey", linestyle=":", label="98 % of the frontier")
    axes.set(xlabel="share of requests that go to the frontier", ylabel="mean quality", xlim=(0, 1))
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def _reliable(path: Path, scored: Mapping[str, Scored], test: Sequence[Pair]) -> Path:
    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    ok = np.array([float(p.tier1_ok) for p in test])
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
    for router, s in scored.items():
        if s.probability is not None:
            bins = reliability(s.probability, ok)
            axes.plot(
                [b.mean_p for b in bins], [b.observed_ratio for b in bins], marker="o", markersize=3, label=router
            )
    axes.set(xlabel="p(tier 1 does as well)", ylabel="share where it did", xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
