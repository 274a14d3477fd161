"""Detects that a signal has left the distribution it was calibrated on: population stability index and KS test."""

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from routing.records import Record

Floats = NDArray[np.float64]

N_BINS = 10
PSI_ALARM = 0.25  # by custom: below 0.1 stable, above 0.25 shifted (Siddiqi 2006, "Credit Risk Scorecards")
P_ALARM = 0.01
MIN_VALUES = 50  # of each side. Ten bins of fewer are mostly noise


class DriftConfig(Record):
    """When a signal counts as shifted: by size and by chance, both."""

    psi_alarm: float = Field(PSI_ALARM, gt=0)
    p_alarm: float = Field(P_ALARM, gt=0, lt=1)
    min_values: int = Field(MIN_VALUES, ge=2)


class Drift(Record):
    """One signal of one category. None where there are too few values to say."""

    category: str
    signal: str
    n_before: int = Field(ge=0)
    n_live: int = Field(ge=0)
    psi: float | None = Field(None, ge=0)
    ks: float | None = Field(None, ge=0, le=1, description="largest distance of the two distribution functions")
    p_same: float | None = Field(None, ge=0, le=1, description="of such a distance if nothing had changed")
    alarm: bool = False


def drift(category: str, signal: str, before: Floats, live: Floats, config: DriftConfig) -> Drift:
    """Compare two samples of finite values, shape (n,) and (m,).

    An alarm needs a shift that is large (PSI) and not by chance (KS). With many values everything is significant. With
    few, any PSI is large.
    """
    if min(before.size, live.size) < config.min_values:
        return Drift(category=category, signal=signal, n_before=before.size, n_live=live.size)
    index, distance = psi(before, live), ks_distance(before, live)
    p_same = ks_p(distance, before.size, live.size)
    return Drift(
        category=category,
        signal=signal,
        n_before=before.size,
        n_live=live.size,
        psi=index,
        ks=distance,
        p_same=p_same,
        alarm=index > config.psi_alarm and p_same < config.p_alarm,
    )


def psi(before: Floats, live: Floats) -> float:
    """Sum of (share live - share before) * ln(share live / share before) over bins of equal count before. 0: the same.

    Half a value is added to every bin, so that an empty bin does not give infinity.
    """
    edges = np.unique(np.quantile(before, np.linspace(0, 1, N_BINS + 1)[1:-1]))
    counts = [np.bincount(np.searchsorted(edges, x, side="left"), minlength=edges.size + 1) for x in (before, live)]
    old, new = ((c + 0.5) / (c.sum() + 0.5 * c.size) for c in counts)
    return float(np.sum((new - old) * np.log(new / old)))


def ks_distance(before: Floats, live: Floats) -> float:
    """Largest difference of the two empirical distribution functions, 0..1."""
    points = np.concatenate([before, live])
    old, new = (np.searchsorted(np.sort(x), points, side="right") / x.size for x in (before, live))
    return float(np.max(np.abs(old - new)))


def ks_p(distance: float, n: int, m: int) -> float:
    """Probability of at least this distance under one distribution: the asymptotic series, two-sided.

    Source: Kolmogorov 1933, Smirnov 1948, with Stephens' (1970) correction for finite samples.
    """
    root = math.sqrt(n * m / (n + m))
    x = (root + 0.12 + 0.11 / root) * distance
    if x < 0.2:
        return 1.0  # the series converges slowly there, and is 1 to six digits
    total = 2 * sum((-1) ** (k - 1) * math.exp(-2 * k * k * x * x) for k in range(1, 101))
    return float(min(max(total, 0.0), 1.0))
