"""Estimates how much traffic can stay on tier 1 at a quality target, before anybody has labelled a request.

Only one's own labels give the true share. Without them there is a relation from public pairs: how much of the gap
between tier 1 and the frontier is recovered when the worst-scored share of the drafts is replaced. Its range is wide.
The share depends above all on how good tier 1 is on this very traffic.
"""

import math

import numpy as np
from pydantic import Field

from routing.records import Record

# Relative quality of tier 1 (tier 1 / frontier) -> quality kept when a quarter of the traffic escalates after the best
# check of the answers. Measured on graded public pairs: MMLU-Pro (Llama-3.1-8B / Gemini-1.5-Pro), ZeroEval
# (Llama-3.1-8B / GPT-4o), MMLU and GSM8K (Mixtral-8x7B / GPT-4).
ESCALATED_RATIO = 0.25
KEPT_QUALITY = ((0.67, 0.89), (0.73, 0.91), (0.84, 0.96), (0.94, 0.997))
# The best check above has answers of four other models. Checks from the prompt alone recover 0.57 of the area under the
# curve where no label of one's own exists. recovered = 1 - (1 - e)^k has the area k / (k + 1).
COLD_APGR = 0.57
SOURCE = "graded public pairs (MMLU, MMLU-Pro, GSM8K, ZeroEval); no label of this traffic"


class Tier1Share(Record):
    """The share of requests that tier 1 may answer, between a pessimist and an optimist."""

    low: float = Field(ge=0, le=1)
    expected: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    source: str


def recovered_gap(escalated_ratio: float, steepness: float) -> float:
    """Share of the quality gap that is recovered: 1 - (1 - e)^k. k = 1 is chance, larger is a better check."""
    return float(1 - (1 - escalated_ratio) ** steepness)


def best_steepness(relative_quality: float) -> float:
    """k of the best check for a tier 1 of that relative quality, interpolated and held at the ends."""
    qualities = [q for q, _ in KEPT_QUALITY]
    recovered = [(kept - q) / (1 - q) for q, kept in KEPT_QUALITY]
    steepness = [math.log(1 - r) / math.log(1 - ESCALATED_RATIO) for r in recovered]
    return float(np.interp(relative_quality, qualities, steepness))


def kept_ratio(relative_quality: float, target: float, steepness: float) -> float:
    """Share of the requests that stay on tier 1 when `target` of the frontier's quality must be kept, both 0..1."""
    if relative_quality >= target:
        return 1.0
    wanted = (target - relative_quality) / (1 - relative_quality)
    return float((1 - wanted) ** (1 / steepness))


def tier1_share(target: float, relative_quality: float | None = None) -> Tier1Share:
    """The share that public measurements expect at a quality target.

    relative_quality: quality of tier 1 over that of the frontier on this traffic. None: unknown. The bounds then span
    every tier 1 that was measured, and the expectation is in the middle (0.84).
    low: the check sees the prompt alone and knows no label of this traffic. high: the best check measured.
    expected: halfway, in the exponent of the curve. A stack with a gate on the draft lies between the two.
    """
    if not 0 < target <= 1:
        raise ValueError(f"a quality target is a share of the frontier's quality in 0..1, not {target}")
    cold = COLD_APGR / (1 - COLD_APGR)
    worst, middle, best = (0.67, 0.84, 0.94) if relative_quality is None else (relative_quality,) * 3
    return Tier1Share(
        low=kept_ratio(worst, target, cold),
        expected=kept_ratio(middle, target, math.sqrt(cold * best_steepness(middle))),
        high=kept_ratio(best, target, best_steepness(best)),
        source=SOURCE,
    )


def observed_share(kept: int, n: int, source: str) -> Tier1Share:
    """The share seen in n >= 1 requests of one's own, with Wilson's 95 % interval as its bounds."""
    p, z = kept / n, 1.96
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt((p * (1 - p) + z * z / (4 * n)) / n)
    low, high = min(max(0.0, middle - reach), p), max(min(1.0, middle + reach), p)  # p = 0 and 1 are bounds themselves
    return Tier1Share(low=low, expected=p, high=high, source=source)
