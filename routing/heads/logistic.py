"""A logistic model for every category, each shrunk to the common one as far as its labels are few."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.heads.calibration import sigmoid

Floats = NDArray[np.float64]

MAX_DEVIATIONS = 4.0  # one absurd column may not outweigh all others


@dataclass(frozen=True)
class Logistic:
    """Weights by category. n_columns: of a dense row (routing/heads/head.py). n_targets: of the LABEL_SET.

    mean, spread: float64 (n_columns,), of the training rows.
    weights: float64 (n_categories + 1, n_columns, n_targets). bias: float64 (n_categories + 1, n_targets).
    Both are the sum of a common and an own part. The last one is the common part alone, for categories without labels.
    """

    mean: Floats
    spread: Floats
    weights: Floats
    bias: Floats

    def predict(self, row: Floats, category: int | None) -> Floats:
        """Shares 0..1 of one row, shape (n_targets,). category: its index, None when unknown."""
        own = -1 if category is None else category
        return sigmoid(self.bias[own] + standardised(row, self.mean, self.spread) @ self.weights[own])


def standardised(rows: Floats, mean: Floats, spread: Floats) -> Floats:
    """Standard deviations from the mean, cut at MAX_DEVIATIONS. A column that never varied counts 0."""
    z = (rows - mean) / np.where(spread > 0, spread, 1.0)
    return np.asarray(np.clip(z, -MAX_DEVIATIONS, MAX_DEVIATIONS))
