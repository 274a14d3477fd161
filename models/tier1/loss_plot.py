"""Draw what a training logged: loss over steps."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


def draw_curves(history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Training and evaluation loss over optimizer steps, as a PNG. history: the trainer's log rows."""
    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for key, label in (("loss", "training"), ("eval_loss", "held-out questions")):
        points = [(row["step"], row[key]) for row in history if key in row and "step" in row]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="." if key == "eval_loss" else None)
    axes.set_xlabel("optimizer step")
    axes.set_ylabel("loss, nats per token")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)
