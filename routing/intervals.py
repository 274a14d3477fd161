"""Bootstrap confidence intervals."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from routing.records import Record

Floats = NDArray[np.float64]


class Interval(Record):
    """A statistic with its bootstrap percentile interval; None where no resample defined it."""

    value: float | None
    low: float | None
    high: float | None
    level: float = Field(0.95, gt=0, lt=1)


def _pairs(*arrays: Sequence[float] | Floats) -> list[Floats]:
    columns = [np.asarray(a, dtype=np.float64) for a in arrays]
    if columns[0].ndim != 1 or columns[0].size == 0 or any(c.shape != columns[0].shape for c in columns):
        raise ValueError(f"expected non-empty columns of one length, got shapes {[c.shape for c in columns]}")
    if not all(np.isfinite(c).all() for c in columns):
        raise ValueError("a column holds NaN or infinity; leave unmeasured rows out")
    return columns


def bootstrap_interval(
    statistic: Callable[..., float | None],
    columns: Sequence[Floats],
    n_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of `statistic(*columns)` over rows drawn with replacement, the same rows of every column.

    Resamples on which the statistic is None are left out. Source: Efron 1979; percentile method.
    """
    arrays = _pairs(*columns)
    rng = np.random.default_rng(seed)
    n = arrays[0].size
    values: list[float] = []
    for _ in range(n_resamples):
        rows = rng.integers(0, n, n)
        value = statistic(*(a[rows] for a in arrays))
        if value is not None:
            values.append(value)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail]) if values else (None, None)
    return Interval(
        value=statistic(*arrays),
        low=None if low is None else float(low),
        high=None if high is None else float(high),
        level=level,
    )
