"""Fit a logistic model per category on dense rows, drawn to a common one by Gaussian priors, in closed Newton steps."""

import numpy as np
from numpy.typing import NDArray

from routing.heads.calibration import map_weights
from routing.heads.logistic import Logistic, standardised

Floats = NDArray[np.float64]

# Precisions of the priors; twice and half of them measured alike on four sets (benchmarks/LOG.md).
SIGNAL_PRECISION = 10.0  # of what a signal is worth in all categories
OWN_PRECISION = 30.0  # of what a category adds to that
OTHER_PRECISION = 60.0  # of lengths and counts: many columns, each worth little
OFFSET_PRECISION = 10.0  # of a category's offset


def fit_logistic(
    rows: Floats, target: Floats, category: NDArray[np.int64], n_categories: int, signals: NDArray[np.int64]
) -> Logistic:
    """rows: (n, n_columns); target: soft labels 0..1, (n, n_targets); category: index of each row, (n,).

    signals: the columns that are believed on few labels, and whose weight may differ between categories.
    """
    n_columns, n_targets = rows.shape[1], target.shape[1]
    mean, spread = rows.mean(axis=0), rows.std(axis=0)
    z = standardised(rows, mean, spread)
    one_hot = np.eye(n_categories)[category]
    by_category = (one_hot[:, :, None] * z[:, None, signals]).reshape(len(rows), -1)
    design = np.hstack([np.ones((len(rows), 1)), z, one_hot, by_category])
    common = np.full(n_columns, OTHER_PRECISION)
    common[signals] = SIGNAL_PRECISION
    own = np.full(n_categories * signals.size, OWN_PRECISION)
    precision = np.concatenate([[1e-6], common, np.full(n_categories, OFFSET_PRECISION), own])
    weights = np.zeros((n_categories + 1, n_columns, n_targets))
    bias = np.zeros((n_categories + 1, n_targets))
    for number in range(n_targets):
        found = map_weights(design, target[:, number], precision)
        bias[:, number] = found[0]
        weights[:, :, number] = found[1 : 1 + n_columns]
        offsets, added = np.split(found[1 + n_columns :], [n_categories])
        bias[:-1, number] += offsets
        weights[:-1, signals, number] += added.reshape(n_categories, -1)
    return Logistic(mean, spread, weights, bias)
