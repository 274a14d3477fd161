"""Turns scores into probabilities, and probabilities into thresholds that keep a promise on few labels.

A threshold is chosen so that the share of judged requests that show a bad draft stays at or below a target with stated
confidence in every category at once. A category with too few labels gets no threshold and goes to the frontier.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from routing.records import Record

Floats = NDArray[np.float64]

OFFSET_PRECISION = 10.0  # of the Gaussian prior on a category's offset: 40 labels at p = 0.5 weigh as much as the prior
CURVE_PRIOR_LABELS = 200.0  # labels at which the isotonic curve weighs as much as the Platt curve
MAX_CURVE_BINS = 30
MIN_BIN_LABELS = 30
TAIL = 0.05  # of a share. Beyond it the log odds go on in a straight line
ALONE_LABELS_RATIO = 2.0  # times the fewest labels that prove a promise. With just those, no bad draft may be shown
ERROR_RATE = 0.03  # 97 of 100 label sets keep every promise. Below 0.05, so that a check by resampling sees its 95
SLOPE_PRECISION = 1e-3  # keeps the slope finite when the scores separate the labels
_NEWTON_STEPS = 100


class Calibration(Record):
    """Platt scaling with a shrunken offset per category, corrected by an isotonic curve as the labels allow.

    platt = sigmoid(slope * score + intercept + offset)
    p = (1 - curve_weight) * platt + curve_weight * curve(platt)
    n_labels: labels seen per category. A category without labels gets offset 0 and n_labels 0: its p is a cold start.
    """

    slope: float = Field(ge=0)
    intercept: float
    offsets: dict[str, float] = Field(default_factory=dict, description="log odds, by category")
    n_labels: dict[str, int] = Field(default_factory=dict)
    curve_platt: tuple[float, ...] = Field((), description="knots, ascending. empty: no curve")
    curve_ratio: tuple[float, ...] = Field((), description="observed share at each knot, not descending, 0..1")
    curve_weight: float = Field(0.0, ge=0, lt=1, description="below 1, so that p keeps every difference of the score")

    def p(self, score: float, category: str) -> float:
        """Probability of the positive label, 0..1. Grows with the score."""
        return float(self.p_all(np.array([score]), [category])[0])

    def p_all(self, scores: Floats, categories: Sequence[str]) -> Floats:
        """The same for many rows, shape (n,)."""
        offsets = np.array([self.offsets.get(c, 0.0) for c in categories])
        platt = sigmoid(self.slope * scores + self.intercept + offsets)
        if not self.curve_platt:
            return platt
        curve = np.interp(platt, self.curve_platt, self.curve_ratio)
        return np.asarray((1 - self.curve_weight) * platt + self.curve_weight * curve)


def sigmoid(x: Floats | float) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * np.asarray(x, dtype=np.float64))))


def log_odds(share: Floats | float) -> Floats:
    """ln(q / (1 - q)), continued by its tangents outside TAIL..1 - TAIL: estimates beyond 0..1 keep their order.

    Platt scaling of the log odds of an estimated share measured better than of the share: Brier 0.132 against 0.134.
    """
    q = np.asarray(share, dtype=np.float64)
    inside = np.clip(q, TAIL, 1 - TAIL)
    return np.asarray(np.log(inside / (1 - inside)) + (q - inside) / (TAIL * (1 - TAIL)))


def fit_calibration(
    scores: Floats, positive: Floats, categories: Sequence[str], offset_precision: float = OFFSET_PRECISION
) -> Calibration:
    """Fit on scores that did not see their own labels (out of fold), all of shape (n,), n >= 1.

    positive: 0/1 or soft labels in 0..1. The slope is never negative. A score that ranks backwards counts as useless,
    not as its opposite. Source: Platt 1999. The offsets are a random-intercept logistic model, fitted by MAP.
    """
    if len(scores) == 0 or not len(scores) == len(positive) == len(categories):
        raise ValueError(f"expected equal, non-empty columns, got {len(scores)}, {len(positive)}, {len(categories)}")
    names = sorted(set(categories))
    index = np.searchsorted(names, np.asarray(categories))
    centre, spread = float(scores.mean()), float(scores.std()) or 1.0
    z = (np.asarray(scores, dtype=np.float64) - centre) / spread
    design = np.zeros((z.size, 2 + len(names)))
    design[:, 0], design[:, 1] = z, 1.0
    design[np.arange(z.size), 2 + index] = 1.0
    # Platt's smoothed targets: the rarer label keeps a finite log odds even when it was never seen.
    n_positive = float(positive.sum())
    high, low = (n_positive + 1) / (n_positive + 2), 1 / (z.size - n_positive + 2)
    target = low + (high - low) * np.asarray(positive, dtype=np.float64)
    precision = np.array([SLOPE_PRECISION, 1e-6, *[offset_precision] * len(names)])
    weights = map_weights(design, target, precision)
    if weights[0] < 0:
        weights = np.concatenate([[0.0], map_weights(design[:, 1:], target, precision[1:])])
    slope = float(weights[0]) / spread
    curve_platt, curve_ratio = _isotonic(sigmoid(design @ weights), np.asarray(positive, dtype=np.float64))
    return Calibration(
        slope=slope,
        intercept=float(weights[1]) - slope * centre,
        offsets={name: float(w) for name, w in zip(names, weights[2:], strict=True)},
        n_labels={name: int(n) for name, n in zip(names, np.bincount(index), strict=True)},
        curve_platt=curve_platt,
        curve_ratio=curve_ratio,
        curve_weight=z.size / (z.size + CURVE_PRIOR_LABELS) if curve_platt else 0.0,
    )


def _isotonic(p: Floats, positive: Floats) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Knots of the non-descending curve nearest to the labels, on bins of equal count. Empty for few labels.

    Source: Zadrozny and Elkan 2002, pool adjacent violators (Ayer et al. 1955).
    """
    n_bins = min(MAX_CURVE_BINS, p.size // MIN_BIN_LABELS)
    if n_bins < 2:
        return (), ()
    blocks: list[tuple[float, float, float]] = []  # labels, sum of p, sum of positives
    for rows in np.array_split(np.argsort(p, kind="stable"), n_bins):
        block = (float(rows.size), float(p[rows].sum()), float(positive[rows].sum()))
        while blocks and blocks[-1][2] * block[0] >= block[2] * blocks[-1][0]:
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
        blocks.append(block)
    if len(blocks) < 2:
        return (), ()
    return tuple(n_p / n for n, n_p, _ in blocks), tuple(n_positive / n for n, _, n_positive in blocks)


def map_weights(design: Floats, target: Floats, precision: Floats) -> Floats:
    """Maximum a posteriori weights of a logistic model, shape (n_columns,). The objective is strictly convex.

    design: (n, n_columns). target: 0/1 or soft labels 0..1, (n,). precision: of each weight's Gaussian prior, above 0.
    """
    weights = np.zeros(design.shape[1])
    for _ in range(_NEWTON_STEPS):
        p = sigmoid(design @ weights)
        gradient = design.T @ (p - target) + precision * weights
        curvature = (design * np.maximum(p * (1 - p), 1e-6)[:, None]).T @ design + np.diag(precision)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step / max(1.0, float(np.abs(step).max()) / 2)  # at most 2 log odds a step
        if float(np.abs(step).max()) < 1e-9:
            break
    return weights


def clopper_pearson_upper(n_events: int, n: int, error_rate: float) -> float:
    """Upper bound of a share that holds with probability 1 - error_rate: one-sided and exact.

    0 <= n_events <= n. Returns 1.0 when n is 0. Source: Clopper and Pearson 1934.
    """
    if n_events >= n:
        return 1.0
    low, high = n_events / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _binomial_cdf(n, middle)[n_events] > error_rate else (low, middle)
    return high


def _binomial_cdf(n: int, p: float) -> Floats:
    """P(X <= k) for k = 0..n, shape (n + 1,)."""
    k = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_choose = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = log_choose + k * math.log(p) + (n - k) * math.log1p(-p)
    return np.asarray(np.minimum(1.0, np.cumsum(np.exp(log_p))))


def labels_needed(target_ratio: float, error_rate: float) -> int:
    """Labels without one bad draft shown that prove `target_ratio`: smallest n with (1 - target)^n <= error_rate."""
    if not 0 < target_ratio < 1:
        return 0 if target_ratio >= 1 else 2**31 - 1
    return math.ceil(math.log(error_rate) / math.log1p(-target_ratio))


@lru_cache(maxsize=4096)
def most_events(n: int, target_ratio: float, error_rate: float) -> int:
    """Most events among n whose Clopper-Pearson bound is at most `target_ratio`. -1 when even 0 is too many."""
    if n == 0 or target_ratio <= 0:
        return -1
    if target_ratio >= 1:
        return n
    return int(np.searchsorted(_binomial_cdf(n, target_ratio), error_rate, side="right")) - 1


class Threshold(Record):
    """What one category may show. Shares are of its judged requests, on the labels the threshold was chosen from."""

    category: str
    threshold: float | None = Field(None, ge=0, le=1, description="show when p >= threshold. None: frontier")
    n_labels: int = Field(ge=0)
    more_labels_needed: int = Field(0, ge=0, description="before any draft may be shown. 0 when enough")
    shown_ratio: float = Field(0.0, ge=0, le=1)
    bad_shown_ratio: float = Field(0.0, ge=0, le=1, description="bad drafts shown")
    bad_shown_bound: float = Field(1.0, ge=0, le=1, description="Clopper-Pearson, at the corrected confidence")
    good_lost_ratio: float = Field(0.0, ge=0, le=1, description="good drafts thrown away")
    together_with: tuple[str, ...] = Field(
        (), description="categories that share this promise, because none has the labels for one of its own"
    )


def bad_ratio_for(quality_target: float, frontier_quality: float) -> float:
    """Share of requests that may show a bad draft so that `quality_target` of the frontier's quality is kept.

    A bad draft costs at most 1 where the frontier's mean is `frontier_quality`, so (1 - target) * frontier quality.
    quality_target: 0..1. 1 allows none.
    """
    return (1 - quality_target) * frontier_quality


def choose_threshold(category: str, p: Floats, bad: Floats, target_ratio: float, error_rate: float) -> Threshold:
    """Lowest threshold whose bad drafts shown stay within `target_ratio` with probability 1 - error_rate.

    p: calibrated probability that the draft may be shown, shape (n,). bad: 1 where showing it was wrong, shape (n,).
    The risk only grows as the threshold falls, so one pointwise bound holds for the threshold found from the top down.
    Source: Bates et al. 2021, risk-controlling prediction sets, with the exact binomial bound.
    """
    n = len(p)
    allowed = most_events(n, target_ratio, error_rate)
    n_bad = int(np.sum(bad))
    good_ratio = (n - n_bad) / n if n else 0.0
    if allowed < 0:
        missing = labels_needed(target_ratio, error_rate) - n
        return Threshold(category=category, n_labels=n, more_labels_needed=max(1, missing), good_lost_ratio=good_ratio)
    order = np.argsort(-p, kind="stable")
    ranked, events = p[order], np.cumsum(bad[order])
    last_of_tie = np.append(ranked[1:] != ranked[:-1], True)
    usable = np.flatnonzero(last_of_tie & (events <= allowed))
    if usable.size == 0:
        return Threshold(
            category=category,
            n_labels=n,
            bad_shown_bound=clopper_pearson_upper(0, n, error_rate),
            good_lost_ratio=good_ratio,
        )
    cut = int(usable[-1])
    shown, bad_shown = cut + 1, int(events[cut])
    return Threshold(
        category=category,
        threshold=float(ranked[cut]),
        n_labels=n,
        shown_ratio=shown / n,
        bad_shown_ratio=bad_shown / n,
        bad_shown_bound=clopper_pearson_upper(bad_shown, n, error_rate),
        good_lost_ratio=(n - n_bad - (shown - bad_shown)) / n,
    )


def choose_thresholds(
    p: Floats,
    bad: Floats,
    categories: Sequence[str],
    target_ratios: Mapping[str, float],
    error_rate: float = ERROR_RATE,
    *,
    together: bool = False,
) -> dict[str, Threshold]:
    """One threshold per category of `target_ratios`, all promises together holding with probability 1 - error_rate.

    Bonferroni: each promise is tested at error_rate / their number. A category without the labels that prove its target
    goes to the frontier. With `together`, all categories with fewer than ALONE_LABELS_RATIO times those labels share
    one promise. It says that over their common traffic, mixed as the labels are, the bad drafts shown stay within the
    mean of their targets.
    """
    names = np.asarray(categories)
    counts = {category: int((names == category).sum()) for category in target_ratios}
    alone = list(target_ratios)
    if together:  # from the counts alone, because the labels' values must not choose the groups
        each = error_rate / max(1, len(target_ratios))
        alone = [c for c in target_ratios if ALONE_LABELS_RATIO * labels_needed(target_ratios[c], each) <= counts[c]]
    rest = [c for c in target_ratios if c not in alone]
    each = error_rate / max(1, len(alone) + (bool(rest) if together else 0))
    found = {c: choose_threshold(c, p[names == c], bad[names == c], target_ratios[c], each) for c in alone}
    if rest:
        mine = np.isin(names, rest)
        weights = [counts[c] for c in rest]
        target = float(np.average([target_ratios[c] for c in rest], weights=weights)) if sum(weights) else 0.0
        common = choose_threshold(rest[0], p[mine], bad[mine], target, each)
        found |= {c: common.model_copy(update={"category": c, "together_with": tuple(rest)}) for c in rest}
    return {category: found[category] for category in target_ratios}
