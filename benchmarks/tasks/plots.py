"""Quality against frontier calls with the random line, and the reliability of router and gate, as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from benchmarks.tasks.strategies import Columns
from routing.learning.quality import quality_curve, reliability

mpl.use("Agg")  # no display where benchmarks run
from matplotlib import pyplot as plt


def plot(
    folder: Path, data: Columns, scores: Mapping[str, NDArray[np.float64]], points: Sequence[Mapping[str, object]]
) -> list[Path]:
    """Write both diagrams. scores: p(tier 1 will do) by name. points: rows of strategies to mark."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "tasks-quality.png", folder / "tasks-reliability.png"]
    figure, axes = plt.subplots(figsize=(7, 5), layout="constrained")
    for name, p in scores.items():
        curve = quality_curve(p, data.tier1, data.frontier)
        axes.plot(curve.frontier_ratio, curve.quality, label=name)
    axes.plot([0, 1], [data.tier1.mean(), data.frontier.mean()], color="grey", linestyle="--", label="random")
    axes.axhline(0.98 * float(data.frontier.mean()), color="grey", linestyle=":", label="98 % of the frontier")
    for point in points:
        share, accuracy = float(str(point["frontier_share"])), float(str(point["accuracy"]))
        axes.plot(share, accuracy, "o", color="black", markersize=4)
        axes.annotate(
            str(point["strategy"]), (share, accuracy), fontsize="x-small", xytext=(4, -8), textcoords="offset points"
        )
    axes.set(xlabel="share of requests the frontier answers", ylabel="share right", xlim=(0, 1))
    axes.legend(fontsize="small")
    figure.savefig(paths[0], dpi=120)
    plt.close(figure)
    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="calibrated")
    for name, p in scores.items():
        bins = reliability(p, 1 - data.bad)
        axes.plot([b.mean_p for b in bins], [b.observed_ratio for b in bins], marker="o", markersize=3, label=name)
    axes.set(xlabel="p(tier 1 does as well)", ylabel="share where it did", xlim=(0, 1), ylim=(0, 1))
    axes.legend(fontsize="small")
    figure.savefig(paths[1], dpi=120)
    plt.close(figure)
    return paths
