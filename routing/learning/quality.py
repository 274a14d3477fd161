"""Measures how good a router or a gate is: quality recovered against frontier calls, ranking, calibration.

Every function takes plain arrays of equal length (n,). A high `p_tier1_ok` means to stay on tier 1.
"""

from collections.abc import Sequence

import numpy as np

from routing.intervals import Floats, checked_columns
from routing.records import Record


class QualityCurve(Record):
    """Mean quality against the share of requests sent to the frontier, from all tier 1 (share 0) to all frontier (1).

    frontier_ratio: ascending, shape (k,), first 0, last 1. quality: mean graded quality there, shape (k,), 0..1.
    One point per distinct score. Requests of equal score form a straight segment, the mean over every tie-break.
    """

    frontier_ratio: tuple[float, ...]
    quality: tuple[float, ...]

    @property
    def tier1_quality(self) -> float:
        """Mean quality when nothing goes to the frontier."""
        return self.quality[0]

    @property
    def frontier_quality(self) -> float:
        """Mean quality when everything goes to the frontier."""
        return self.quality[-1]

    def at(self, frontier_ratio: float) -> float:
        """Quality at a share of frontier calls, linear between points."""
        return float(np.interp(frontier_ratio, self.frontier_ratio, self.quality))


def quality_curve(
    p_tier1_ok: Sequence[float] | Floats,
    tier1_quality: Sequence[float] | Floats,
    frontier_quality: Sequence[float] | Floats,
) -> QualityCurve:
    """Quality when the requests of lowest `p_tier1_ok` go to the frontier first.

    p_tier1_ok: any score that orders requests, shape (n,). Only its order matters.
    tier1_quality, frontier_quality: graded 0..1, shape (n,). Raises ValueError on unequal, empty or non-finite columns.
    """
    score, tier1, frontier = checked_columns(p_tier1_ok, tier1_quality, frontier_quality)
    _, group, counts = np.unique(score, return_inverse=True, return_counts=True)
    gain = np.bincount(group, weights=frontier - tier1)
    ratio = np.concatenate([[0.0], np.cumsum(counts) / score.size])
    quality = tier1.mean() + np.concatenate([[0.0], np.cumsum(gain) / score.size])
    return QualityCurve(frontier_ratio=tuple(ratio.tolist()), quality=tuple(quality.tolist()))


def pgr(quality: float, tier1_quality: float, frontier_quality: float) -> float | None:
    """Performance gap recovered: 0 = tier 1, 1 = frontier, above 1 = better than the frontier alone.

    None when there is no gap to recover (the frontier is no better). Source: Ong et al. 2024, RouteLLM, eq. 3.
    """
    gap = frontier_quality - tier1_quality
    return None if gap <= 0 else (quality - tier1_quality) / gap


def apgr(curve: QualityCurve, n_steps: int = 10) -> float | None:
    """Average PGR over the cost curve: its area (trapezoids between score deciles), scaled so that random = 0.5.

    (AUC - AUC of tier 1) / (AUC of frontier - AUC of tier 1). 0 and 1 are no bounds: an oracle may exceed 1.
    Source: Ong et al. 2024, RouteLLM. `n_steps=10` as in lm-sys/RouteLLM's evaluation, which thresholds at deciles.
    """
    grid = np.linspace(0.0, 1.0, n_steps + 1)
    area = float(np.trapezoid(np.interp(grid, curve.frontier_ratio, curve.quality), grid))
    return pgr(area, curve.tier1_quality, curve.frontier_quality)


def _first_ratio(curve: QualityCurve, target: float) -> float | None:
    """Smallest share of frontier calls whose interpolated quality reaches `target`."""
    ratio, quality = np.asarray(curve.frontier_ratio), np.asarray(curve.quality)
    reached = np.flatnonzero(quality >= target - 1e-12)
    if reached.size == 0:
        return None
    i = int(reached[0])
    if i == 0:
        return 0.0
    rise = quality[i] - quality[i - 1]
    part = 1.0 if rise <= 0 else min(1.0, (target - quality[i - 1]) / rise)
    return float(ratio[i - 1] + part * (ratio[i] - ratio[i - 1]))


def cpt(curve: QualityCurve, gap_ratio: float) -> float | None:
    """Call-performance threshold: share of frontier calls (0..1) that recovers `gap_ratio` of the quality gap.

    Random needs `gap_ratio` itself. None without a gap. Source: Ong et al. 2024, RouteLLM, CPT(x %).
    """
    gap = curve.frontier_quality - curve.tier1_quality
    return None if gap <= 0 else _first_ratio(curve, curve.tier1_quality + gap_ratio * gap)


def frontier_ratio_for(curve: QualityCurve, quality_ratio: float) -> float | None:
    """Smallest share of frontier calls (0..1) that keeps `quality_ratio` of the frontier's quality: f95, f98, f99.

    0 when tier 1 alone keeps it. Source: cost at the best model's quality, as FrugalGPT (Chen et al. 2023) reports it.
    """
    return _first_ratio(curve, quality_ratio * curve.frontier_quality)


def auroc(score: Sequence[float] | Floats, positive: Sequence[float] | Floats) -> float | None:
    """Probability that a random positive scores above a random negative, ties counting half. 0..1, random = 0.5.

    positive: 0/1 labels. None when only one class is present. Source: Hanley and McNeil 1982 (Mann-Whitney U).
    """
    values, label = checked_columns(score, positive)
    n_positive = label.sum()
    n_negative = label.size - n_positive
    if n_positive == 0 or n_negative == 0:
        return None
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    midrank = np.cumsum(counts) - (counts - 1) / 2
    rank_sum = midrank[group][label > 0.5].sum()
    return float((rank_sum - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def brier(p: Sequence[float] | Floats, outcome: Sequence[float] | Floats) -> float:
    """Mean squared distance of a probability from what happened. 0..1, lower is better. Source: Brier 1950."""
    probability, happened = checked_columns(p, outcome)
    return float(np.mean((probability - happened) ** 2))


class ReliabilityBin(Record):
    """One bin of a reliability diagram."""

    mean_p: float
    observed_ratio: float
    n: int


def reliability(
    p: Sequence[float] | Floats, outcome: Sequence[float] | Floats, n_bins: int = 10
) -> tuple[ReliabilityBin, ...]:
    """Mean probability against observed share in bins of equal width over 0..1. Empty bins are left out.

    Raises ValueError when a probability lies outside 0..1. Source: Guo et al. 2017.
    """
    probability, happened = checked_columns(p, outcome)
    if probability.min() < 0 or probability.max() > 1:
        raise ValueError(f"probabilities must lie in 0..1, got {probability.min()}..{probability.max()}")
    index = np.minimum((probability * n_bins).astype(np.int64), n_bins - 1)
    return tuple(
        ReliabilityBin(
            mean_p=float(probability[index == b].mean()),
            observed_ratio=float(happened[index == b].mean()),
            n=int((index == b).sum()),
        )
        for b in np.unique(index)
    )


def ece(p: Sequence[float] | Floats, outcome: Sequence[float] | Floats, n_bins: int = 10) -> float:
    """Expected calibration error: mean gap of probability and observed share over the bins. 0..1, lower is better.

    Source: Naeini et al. 2015. Bins as in `reliability`. On few rows even perfect probabilities give more than 0.
    """
    bins = reliability(p, outcome, n_bins)
    return float(sum(b.n * abs(b.mean_p - b.observed_ratio) for b in bins) / sum(b.n for b in bins))


def ece_floor(p: Sequence[float] | Floats, n_draws: int = 200, seed: int = 0, n_bins: int = 10) -> float:
    """The `ece` to expect on so many rows when every probability is right: its mean over outcomes drawn from p itself.

    An ECE near this value is no sign of a fault. One well above it is. Source: Broecker and Smith 2007, consistency
    resampling, as in their reliability diagrams.
    """
    (probability,) = checked_columns(p)
    rng = np.random.default_rng(seed)
    drawn = (rng.random((n_draws, probability.size)) < probability).astype(np.float64)
    return float(np.mean([ece(probability, outcome, n_bins) for outcome in drawn]))
