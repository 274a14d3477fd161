"""The bill falling row by row, split into frontier and own engines, with accuracy under it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # no display where benchmarks run
from matplotlib import pyplot as plt


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw it. rows: as in the JSON document. One whose bill is not known has no bar."""
    places = range(len(rows))
    frontier = [row["frontier_usd"] or 0.0 for row in rows]
    own = [row["own_usd"] or 0.0 for row in rows]
    figure, (bill, quality) = plt.subplots(
        2, 1, figsize=(9, 6), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    bill.bar(places, frontier, color="#4c72b0", label="frontier")
    bill.bar(places, own, bottom=frontier, color="#dd8452", label="own engines, busy time")
    previous: float | None = None
    for place, row in enumerate(rows):
        usd = row["usd"]
        if usd is not None:
            low, high = row["usd_spread"]
            bill.errorbar(place, usd, [[usd - low], [high - usd]], color="black", capsize=4)
            if previous:
                bill.annotate(f"x{usd / previous:.2f}", (place, high), ha="center", va="bottom")
                bill.plot([place - 1, place], [previous, previous], color="grey", linestyle=":")
        previous = usd
    bill.set(ylabel="dollars per 1,000 requests")
    bill.legend(fontsize="small")
    right = [row["accuracy"] for row in rows]
    ends = [row["accuracy_spread"] for row in rows]
    below = [middle - low for middle, (low, _) in zip(right, ends, strict=True)]
    above = [high - middle for middle, (_, high) in zip(right, ends, strict=True)]
    quality.errorbar(places, right, [below, above], color="black", marker="o", capsize=4)
    quality.set(ylabel="share right", ylim=(0, 1))
    quality.set_xticks(list(places), [row["row"] for row in rows], rotation=15)
    figure.savefig(path, dpi=120)
    plt.close(figure)
