"""Two panels: tier 1 per category before and after training, and what the stack shows for what it pays."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display where benchmarks run
from matplotlib import pyplot as plt


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Write the PNG. found: what `figures.document` makes."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    rows = found["categories"]
    for shift, which in ((-0.27, "base"), (0.0, "adapter"), (0.27, "frontier")):
        values = [row[which]["value"] for row in rows]
        ends = [[v - row[which]["low"], row[which]["high"] - v] for v, row in zip(values, rows, strict=True)]
        places = [place + shift for place in range(len(rows))]
        left.bar(places, values, width=0.26, label=which, yerr=list(zip(*ends, strict=True)), capsize=2)
    left.set_xticks(range(len(rows)), [row["name"] for row in rows], rotation=30, ha="right")
    left.set(ylabel="share right, held-out questions", ylim=(0, 1))
    left.legend(fontsize="small")
    for row in found["served"]:
        cost, accuracy = row["usd_per_1000"], row["accuracy"]
        if cost is not None:
            right.errorbar(
                cost["value"],
                accuracy["value"],
                xerr=[[cost["value"] - cost["low"]], [cost["high"] - cost["value"]]],
                yerr=[[accuracy["value"] - accuracy["low"]], [accuracy["high"] - accuracy["value"]]],
                marker="o",
                capsize=3,
                label=f"{row['name']}: frontier answers {row['frontier_share']['value']:.0%}",
            )
    right.set(xlabel="dollars per 1,000 requests, ledger", ylabel="share right", ylim=(0, 1))
    right.set_xlim(left=0)
    right.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    plt.close(figure)
