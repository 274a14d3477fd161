"""Figures of `python -m benchmarks run`, from the rows its tables print. Needs matplotlib (the `train` extra)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt


def lines_over(path: Path, rows: Sequence[Mapping[str, Any]], *, x: str, by: str, figures: Mapping[str, str]) -> None:
    """One panel a figure (name: axis label), one line per value of `by`, medians with their spread as a band."""
    drawing, panels = plt.subplots(
        1, len(figures), figsize=(4.2 * len(figures), 3.4), layout="constrained", squeeze=False
    )
    for panel, (figure, label) in zip(panels[0], figures.items(), strict=True):
        for name in dict.fromkeys(row[by] for row in rows):
            points = sorted(
                (row for row in rows if row[by] == name and row.get(figure) is not None), key=lambda r: r[x]
            )
            places = [row[x] for row in points]
            (line,) = panel.plot(places, [row[figure] for row in points], marker="o", markersize=3, label=str(name))
            ends = [row[f"{figure}_spread"] for row in points]
            panel.fill_between(
                places, [low for low, _ in ends], [high for _, high in ends], alpha=0.2, color=line.get_color()
            )
        panel.set_xscale("log", base=2)
        panel.set_ylim(bottom=0)
        panel.set_xlabel(x)
        panel.set_ylabel(label)
    panels[0][0].legend(fontsize=8)
    drawing.savefig(path)
    plt.close(drawing)


def bars(path: Path, rows: Sequence[Mapping[str, Any]], figures: Mapping[str, str]) -> None:
    """One panel a figure (name: axis label), one bar a row, with its spread."""
    height = 0.3 * len(rows) + 1.2
    drawing, panels = plt.subplots(
        1, len(figures), figsize=(4.6 * len(figures), height), layout="constrained", squeeze=False, sharey=True
    )
    for panel, (figure, label) in zip(panels[0], figures.items(), strict=True):
        shown = [row for row in rows if row.get(figure) is not None]
        values = [row[figure] for row in shown]
        low = [row[figure] - row[f"{figure}_spread"][0] for row in shown]
        high = [row[f"{figure}_spread"][1] - row[figure] for row in shown]
        panel.barh([str(row["row"]) for row in shown], values, xerr=[low, high], capsize=2, height=0.6)
        panel.set_xlabel(label)
        panel.invert_yaxis()
    drawing.savefig(path)
    plt.close(drawing)
