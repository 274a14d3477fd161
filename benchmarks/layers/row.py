"""One row of the table: what the same questions cost, how fast and how well they were answered. Pure."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from benchmarks.load.client import quantile
from routing.intervals import Interval, bootstrap_interval
from routing.records import AttemptKind, AttemptOutcome, Record, RequestRecord, Tier

Floats = NDArray[np.float64]

SOON_S = 1.0
PARTS = 4  # of a run, whose throughputs are its spread


class Answered(Record):
    """One question as client and ledger saw it. Seconds of the client's clock. Dollars and tokens of the ledger.

    own: of our own engines, all attempts of the request together, thrown away or not.
    """

    task: str
    tier: Tier | None = Field(description="that answered; None: it failed")
    quality: float = Field(ge=0, le=1, description="a failed request is a wrong answer")
    done_s: float | None = Field(description="since the row began; None: it failed")
    e2e_s: float | None
    frontier_usd: float | None = Field(description="None: a price is unknown")
    own_usd: float | None
    own_s: float = Field(0, ge=0, description="busy engine seconds, shared time split")
    own_input_tokens: int = 0
    own_cached_tokens: int = 0
    drafted: bool = False
    rejected: bool = False

    @property
    def usd(self) -> float | None:
        """All of it."""
        return None if self.frontier_usd is None or self.own_usd is None else self.frontier_usd + self.own_usd


def answered(
    task: str, quality: float, done_s: float | None, e2e_s: float | None, booked: RequestRecord | None
) -> Answered:
    """Join what the client saw with the ledger's row. booked is None for a request that never reached the ledger."""
    attempts = () if booked is None else booked.attempts
    own = [a for a in attempts if a.tier is not Tier.FRONTIER]
    drafts = [a for a in attempts if a.kind is AttemptKind.DRAFT]
    usages = [a.usage for a in own if a.usage is not None]
    return Answered(
        task=task,
        tier=None if booked is None or e2e_s is None else booked.served_tier,
        quality=quality,
        done_s=done_s,
        e2e_s=e2e_s,
        frontier_usd=total([a.cost_usd for a in attempts if a.tier is Tier.FRONTIER]),
        own_usd=total([a.cost_usd for a in own]),
        own_s=sum(a.engine_s or 0.0 for a in own),
        own_input_tokens=sum(u.input_tokens for u in usages),
        own_cached_tokens=sum(u.cached_tokens or 0 for u in usages),
        drafted=bool(drafts),
        rejected=any(a.outcome in (AttemptOutcome.REJECTED, AttemptOutcome.ABORTED) for a in drafts),
    )


def total(dollars: Sequence[float | None]) -> float | None:
    """Their sum. None when one is unknown."""
    known = [d for d in dollars if d is not None]
    return sum(known) if len(known) == len(dollars) else None


class Latency(Record):
    """How long the requests took that one tier answered."""

    n: int
    p50_s: float | None
    soon_ratio: float | None = Field(description=f"answered within {SOON_S:g} s")


class Row(Record):
    """The figures of one row. Dollars per 1,000 requests. None: not measured."""

    name: str
    n: int
    failed: int
    wall_s: float
    usd: Interval
    frontier_usd: float | None
    own_usd: float | None
    rented_usd: float | None = Field(description="with our engines paid for all of the row's time, busy or not")
    own_s: float = Field(description="busy engine seconds a request")
    accuracy: Interval
    throughput_rps: float
    throughput_low_rps: float = Field(description=f"of the slowest of {PARTS} parts of the run")
    throughput_high_rps: float
    latency: dict[str, Latency] = Field(description="by the tier that answered; 'all' for every request")
    hit_ratio: float | None = Field(description="of our engines' prompt tokens; None: they were not asked")
    tier1_ratio: float = Field(description="share of the requests that tier 1 answered")
    drafted_ratio: float
    rejected_ratio: float | None = Field(description="of the drafts; None: there were none")


def make_row(name: str, requests: Sequence[Answered], wall_s: float, rent_usd_per_hour: float) -> Row:
    """Add a row up. requests: in order of their tasks, at least one. rent: of all our engines that the row ran."""
    n, drafts = len(requests), sum(r.drafted for r in requests)
    frontier, own = total([r.frontier_usd for r in requests]), total([r.own_usd for r in requests])
    read = sum(r.own_input_tokens for r in requests)
    low, high = part_throughputs([r.done_s for r in requests if r.done_s is not None], wall_s)
    rented = None if frontier is None else (frontier + rent_usd_per_hour * wall_s / 3600) * 1000 / n
    tiers = {"all": requests} | {t.value: [r for r in requests if r.tier is t] for t in (Tier.TIER1, Tier.FRONTIER)}
    return Row(
        name=name,
        n=n,
        failed=sum(r.e2e_s is None for r in requests),
        wall_s=wall_s,
        usd=mean_of([r.usd for r in requests], 1000),
        frontier_usd=None if frontier is None else frontier * 1000 / n,
        own_usd=None if own is None else own * 1000 / n,
        rented_usd=rented,
        own_s=sum(r.own_s for r in requests) / n,
        accuracy=mean_of([r.quality for r in requests]),
        throughput_rps=sum(r.done_s is not None for r in requests) / wall_s,
        throughput_low_rps=low,
        throughput_high_rps=high,
        latency={name: latency(mine) for name, mine in tiers.items()},
        hit_ratio=sum(r.own_cached_tokens for r in requests) / read if read else None,
        tier1_ratio=sum(r.tier is Tier.TIER1 for r in requests) / n,
        drafted_ratio=drafts / n,
        rejected_ratio=sum(r.rejected for r in requests) / drafts if drafts else None,
    )


def mean_of(values: Sequence[float | None], scale: float = 1.0) -> Interval:
    """Mean times scale with its bootstrap interval. All None when a value is not known."""
    if any(v is None for v in values):
        return Interval(value=None, low=None, high=None)
    return bootstrap_interval(lambda v: float(v.mean()) * scale, [np.array(values, dtype=np.float64)])


def latency(requests: Sequence[Answered]) -> Latency:
    """Of the requests that were answered. A failed one is late, wherever it is counted."""
    times = [r.e2e_s for r in requests if r.e2e_s is not None]
    soon = sum(t < SOON_S for t in times) / len(requests) if requests else None
    return Latency(n=len(requests), p50_s=quantile(times, 0.5), soon_ratio=soon)


def part_throughputs(done_s: Sequence[float], wall_s: float) -> tuple[float, float]:
    """(slowest, fastest) of PARTS stretches with equally many answers, requests/s. The whole when there are too few."""
    times = [0.0, *sorted(done_s)]
    size = len(done_s) // PARTS
    if size < 2:
        whole = len(done_s) / wall_s
        return whole, whole
    marks = [times[part * size] for part in range(PARTS + 1)]
    rates = [size / (end - start) for start, end in pairwise(marks) if end > start]
    return min(rates), max(rates)
