"""Live quality and cost of a release against the one before it, from the ledger; says when it has turned.

A request's quality is its grade where tier 1 answered and somebody graded it, and 1 where the frontier answered; its
cost is a share of what the frontier would have cost. The two versions served different requests, so rows are drawn anew
for each (unpaired bootstrap).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from routing.learning.labels import Pair
from routing.learning.release import version_of
from routing.records import Record, RequestOutcome, RequestRecord, Tier

Floats = NDArray[np.float64]


class Turned(StrEnum):
    """What went bad."""

    QUALITY = "live_quality"
    COST = "live_cost"
    FAILURES = "live_failures"


class LiveMargins(Record):
    """How much worse a release may be than the one before, and how surely that must be seen."""

    confidence: float = Field(0.95, gt=0.5, lt=1)
    quality_margin: float = Field(0.03, ge=0, le=1)
    cost_margin: float = Field(0.10, ge=0, description="of the frontier's cost")
    failure_margin: float = Field(0.02, ge=0, le=1)
    min_requests: int = Field(100, ge=1, description="of each version, before anything is said")
    min_grades: int = Field(20, ge=1, description="of each version, before quality is said")
    n_resamples: int = Field(1000, ge=100)
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Live:
    """One version's requests, shape (n,) each; NaN where not known."""

    at_tier1: Floats
    grade: Floats
    cost_usd: Floats
    baseline_usd: Floats
    failed: Floats

    @property
    def n(self) -> int:
        """Requests."""
        return int(self.failed.size)

    @property
    def n_grades(self) -> int:
        """Graded tier-1 answers."""
        return int(np.isfinite(self.grade).sum())

    def rows(self, index: NDArray[np.int64]) -> "Live":
        """Some of the rows, with repeats."""
        return Live(*(getattr(self, f)[index] for f in ("at_tier1", "grade", "cost_usd", "baseline_usd", "failed")))

    def quality(self) -> float:
        """Mean grade of what was shown, 0..1; NaN when tier 1 answered and nobody graded."""
        share = float(self.at_tier1.mean())
        graded = self.grade[np.isfinite(self.grade)]
        return 1.0 if share == 0 else (1 - share) + share * (float(graded.mean()) if graded.size else np.nan)

    def cost_ratio(self) -> float:
        """Dollars as a share of the frontier's, over requests where both are known; NaN without any."""
        known = np.isfinite(self.cost_usd) & np.isfinite(self.baseline_usd)
        baseline = float(self.baseline_usd[known].sum())
        return float(self.cost_usd[known].sum()) / baseline if baseline > 0 else np.nan


def live_by_version(records: Sequence[RequestRecord], pairs: Sequence[Pair]) -> dict[int, Live]:
    """The rows of each release that booked any; cancelled requests say nothing and are left out."""
    grades = {pair.id: pair.tier1_quality for pair in pairs}
    by_version: dict[int, list[RequestRecord]] = {}
    for record in records:
        version = version_of(record.config_hash)
        if version is not None and record.outcome is not RequestOutcome.CANCELLED:
            by_version.setdefault(version, []).append(record)
    return {version: live_of(rows, grades) for version, rows in by_version.items()}


def live_of(rows: Sequence[RequestRecord], grades: Mapping[str, float]) -> Live:
    """Columns of some rows."""
    return Live(
        at_tier1=np.array([float(r.served_tier is Tier.TIER1) for r in rows]),
        grade=np.array([grades.get(r.request_id, np.nan) if r.served_tier is Tier.TIER1 else np.nan for r in rows]),
        cost_usd=np.array([np.nan if r.cost_usd is None else r.cost_usd for r in rows]),
        baseline_usd=np.array([np.nan if r.baseline_cost_usd is None else r.baseline_cost_usd for r in rows]),
        failed=np.array([float(r.outcome is not RequestOutcome.OK and r.status >= 500) for r in rows]),
    )


def turned(before: Live, after: Live, margins: LiveMargins) -> tuple[Turned, ...]:
    """What is surely worse by more than its margin; empty also while there is too little to say."""
    if min(before.n, after.n) < margins.min_requests:
        return ()
    rng = np.random.default_rng(margins.seed)
    rise: dict[Turned, list[float]] = {t: [] for t in Turned}
    for _ in range(margins.n_resamples):
        old = before.rows(rng.integers(0, before.n, before.n))
        new = after.rows(rng.integers(0, after.n, after.n))
        rise[Turned.QUALITY].append(old.quality() - new.quality())
        rise[Turned.COST].append(new.cost_ratio() - old.cost_ratio())
        rise[Turned.FAILURES].append(float(new.failed.mean() - old.failed.mean()))
    allowed = {
        Turned.QUALITY: margins.quality_margin,
        Turned.COST: margins.cost_margin,
        Turned.FAILURES: margins.failure_margin,
    }
    enough_grades = min(graded_or_frontier(before), graded_or_frontier(after)) >= margins.min_grades
    found = []
    for what, values in rise.items():
        finite = np.array(values)[np.isfinite(values)]
        if finite.size == 0 or (what is Turned.QUALITY and not enough_grades):
            continue
        if float(np.percentile(finite, 100 * (1 - margins.confidence))) > allowed[what]:
            found.append(what)
    return tuple(found)


def graded_or_frontier(live: Live) -> int:
    """Grades there are; a version that sent everything to the frontier needs none."""
    return live.n if not live.at_tier1.any() else live.n_grades
