"""Bootstrap confidence intervals."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from routing.records import Record

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


class Interval(Record):
    """A statistic with its bootstrap percentile interval. A bound is None where no resample defined it."""

    value: float | None
    low: float | None
    high: float | None
    level: float = Field(0.95, gt=0, lt=1)


def checked_columns(*arrays: Sequence[float] | Floats) -> list[Floats]:
    """The columns as float64 arrays of one shape (n,), n >= 1.

    Raises ValueError when they are empty, differ in length or hold NaN or infinity.
    """
    columns = [np.asarray(a, dtype=np.float64) for a in arrays]
    if columns[0].ndim != 1 or columns[0].size == 0 or any(c.shape != columns[0].shape for c in columns):
        raise ValueError(f"expected non-empty columns of one length, got shapes {[c.shape for c in columns]}")
    if not all(np.isfinite(c).all() for c in columns):
        raise ValueError("a column holds NaN or infinity: leave unmeasured rows out")
    return columns


def bootstrap_interval(
    statistic: Callable[..., float | None],
    columns: Sequence[Floats],
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of `statistic(*columns)` over rows drawn with replacement, the same rows of every column.

    Resamples on which the statistic is None are left out. Source: Efron 1979, percentile method.
    """
    arrays = checked_columns(*columns)
    values: list[float] = []
    for (rows,) in drawn_rows([arrays[0].size], n_resamples, seed):
        value = statistic(*(a[rows] for a in arrays))
        if value is not None:
            values.append(value)
    return percentile_interval(statistic(*arrays), values, level)


def drawn_rows(sizes: Sequence[int], n_resamples: int, seed: int = 0) -> Iterator[tuple[Rows, ...]]:
    """For each resample the rows drawn with replacement from every sample, shape (size,) each.

    sizes: rows of each sample, at least 1. Samples that are drawn independently each have their own size.
    """
    rng = np.random.default_rng(seed)
    for _ in range(n_resamples):
        yield tuple(rng.integers(0, n, n) for n in sizes)


def percentile_interval(value: float | None, resampled: Sequence[float] | Floats, level: float = 0.95) -> Interval:
    """A value with the interval that holds the middle `level` of its resamples. No resamples: no bounds."""
    if not len(resampled):
        return Interval(value=value, low=None, high=None, level=level)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(resampled, [tail, 100 - tail])
    return Interval(value=value, low=float(low), high=float(high), level=level)
