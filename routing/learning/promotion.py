"""Decides if a candidate may replace what runs: a paired comparison on held-out requests, with refusals by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from routing.intervals import Interval, bootstrap_interval
from routing.learning.quality import auroc
from routing.records import Record

Floats = NDArray[np.float64]


class RefusalReason(StrEnum):
    """Why a candidate is not promoted. A closed set, in the audit log and in tests."""

    TOO_FEW = "too_few_labels"
    NO_SIGNAL = "no_signal"  # its scores order held-out requests no better than chance, as after shuffled labels
    NOT_BETTER = "not_better"
    CATEGORY_WORSE = "category_worse"
    LEAKED = "leaked_test_prompt"
    POISONED = "poisoned_tenant"
    WRONG_HASH = "wrong_hash"
    WRONG_LABELS = "wrong_label_set"
    PICKLE = "pickle"
    NOT_AN_ARTEFACT = "not_an_artefact"


class Margins(Record):
    """What counts as better, and how much worse a category may get."""

    confidence: float = Field(0.95, gt=0.5, lt=1, description="one-sided, of every bound")
    frontier_call_worth: float = Field(
        0.1, ge=0, le=1, description="quality that one frontier call may cost: 0.1 is one wrong answer for ten calls"
    )
    category_margin: float = Field(0.05, ge=0, le=1, description="quality that a category may lose")
    min_labels: int = Field(100, ge=1)
    n_resamples: int = Field(2000, ge=100)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What a variant would have done with held-out requests, shape (n,) each.

    quality: grade of the answer shown, 0..1. sent: 1 where the frontier answered. p_tier1_ok: its score, None without.
    """

    quality: Floats
    sent: Floats
    p_tier1_ok: Floats | None = None


class Comparison(Record):
    """Candidate minus running variant on the same requests, with two-sided intervals of level 2 * confidence - 1."""

    n: int
    worth: Interval = Field(description="quality minus what the frontier calls cost, in quality")
    quality: Interval
    frontier_ratio: Interval
    quality_by_category: dict[str, Interval]
    auroc: Interval | None = Field(description="of the candidate's score for 'tier 1 will do'. None without a score")


def compare(
    running: Outcomes, candidate: Outcomes, tier1_ok: Floats, categories: Sequence[str], margins: Margins
) -> Comparison:
    """Paired differences. tier1_ok: 1 where tier 1 does as well as the frontier. All of shape (n,), n >= 1."""
    quality = candidate.quality - running.quality
    sent = candidate.sent - running.sent
    names = np.asarray(categories)
    return Comparison(
        n=quality.size,
        worth=mean_interval(quality - margins.frontier_call_worth * sent, margins),
        quality=mean_interval(quality, margins),
        frontier_ratio=mean_interval(sent, margins),
        quality_by_category={str(c): mean_interval(quality[names == c], margins) for c in np.unique(names)},
        auroc=None if candidate.p_tier1_ok is None else auroc_interval(candidate.p_tier1_ok, tier1_ok, margins),
    )


def mean_interval(values: Floats, margins: Margins) -> Interval:
    """Mean with its bootstrap interval, n >= 1. Each bound holds with the confidence of the margins."""
    return bootstrap_interval(
        lambda drawn: float(drawn.mean()), [values], margins.n_resamples, margins.seed, level=2 * margins.confidence - 1
    )


def auroc_interval(score: Floats, positive: Floats, margins: Margins) -> Interval | None:
    """The same of an AUROC. None when only one class is there."""
    n_resamples = max(100, margins.n_resamples // 10)  # fewer, because each sorts all rows
    found = bootstrap_interval(auroc, [score, positive], n_resamples, margins.seed, level=2 * margins.confidence - 1)
    return None if found.value is None else found


class Refusal(Record):
    """One reason with what was seen."""

    reason: RefusalReason
    detail: str


def refusals(comparison: Comparison, margins: Margins) -> tuple[Refusal, ...]:
    """Every reason against the candidate. Empty: it may be promoted.

    A category passes when its loss is proven to stay within the margin. One with few labels and changed answers does
    not pass. One whose answers do not change passes, however few they are.
    """
    found = []
    if comparison.n < margins.min_labels:
        found.append(
            Refusal(reason=RefusalReason.TOO_FEW, detail=f"{comparison.n} held-out labels of {margins.min_labels}")
        )
    ranking = comparison.auroc
    if ranking is not None and ranking.low is not None and ranking.low <= 0.5:
        found.append(
            Refusal(
                reason=RefusalReason.NO_SIGNAL,
                detail=f"AUROC {ranking.value:.2f} on held-out labels, at least {ranking.low:.2f}: chance is 0.50",
            )
        )
    worth = comparison.worth
    if worth.low is None or worth.low <= 0:
        found.append(
            Refusal(
                reason=RefusalReason.NOT_BETTER,
                detail=f"worth {worth.value:+.3f} ({worth.low:+.3f} to {worth.high:+.3f}) against what runs",
            )
        )
    for category, loss in comparison.quality_by_category.items():
        if loss.low is None or loss.low < -margins.category_margin:
            found.append(
                Refusal(
                    reason=RefusalReason.CATEGORY_WORSE,
                    detail=f"{category}: quality {loss.value:+.3f}, may be {loss.low:+.3f}; "
                    f"the margin is {-margins.category_margin:+.3f}",
                )
            )
    return tuple(found)
