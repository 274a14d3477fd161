"""What the stack saved against sending everything to the frontier: signed, by layer, with intervals, from ledger rows.

Every request with known money adds baseline - cost, split over the layers that caused it. The layers add up to the
saving exactly. Sums are kept per unit (a session, or a request without one) in bounded memory. Resampling is by unit.
"""

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from routing.cost.attempt import SELF_PROVIDER
from routing.cost.prefill_speed import PrefillSpeed
from routing.intervals import Interval, percentile_interval
from routing.records import Attempt, AttemptKind, AttemptOutcome, Record, RequestRecord, Tier

Floats = NDArray[np.float64]

N_UNITS = 512  # sessions beyond that share a unit, which bounds memory and leaves the interval as wide
MAX_REPLICAS = 100  # replicas come and go with every rollout. The busiest are shown
MIN_UNITS = 10  # a percentile interval of fewer is too narrow to print


class Layer(StrEnum):
    """Where a saving or a loss comes from."""

    ROUTING = "routing"  # answers that cost another price than the frontier's, less the router's calls
    GATE = "gate"  # drafts thrown away, judges and samples: never positive
    PREFIX_CACHE = "prefix_cache"  # our own engines' cached prompt tokens
    KERNEL = "kernel"  # engine options, by their measured speedup
    LOST = "lost"  # tries that failed or whose client left: never positive
    SHADOW = "shadow"  # asking twice in order to learn: never positive


class SavingsConfig(Record):
    """How savings are computed. All of it is printed with them."""

    kernel_speedup: float | None = Field(
        None, ge=1, description="engine seconds without ÷ with the kernel options, from a benchmark. None: not measured"
    )
    n_resamples: int = Field(1000, ge=100)
    level: float = Field(0.95, gt=0, lt=1)
    seed: int = 0


class Grade(Record):
    """How good the answers to one request were, 0..1. None: that tier's answer was not graded."""

    tier1_quality: float | None = Field(None, ge=0, le=1)
    frontier_quality: float | None = Field(None, ge=0, le=1)

    def of(self, tier: Tier | None) -> float | None:
        """The grade of the answer that was served."""
        return {Tier.TIER1: self.tier1_quality, Tier.FRONTIER: self.frontier_quality}.get(tier) if tier else None


class Savings(Record):
    """One group of requests. Requests whose dollars are not known are in no sum. `unpriced` counts them.

    A layer is None when it was not measured. Its saving is then part of `routing`. Intervals have no bounds below
    MIN_UNITS sessions. Quality is None where nothing was graded. Both means are over the n_graded requests whose served
    answer and whose frontier answer were graded.
    """

    requests: int
    unpriced: int
    unserved: int = Field(description="requests that got no answer. Their baseline counts as 0")
    degraded: int
    served: dict[Tier, int]
    judged: int
    escalated: int = Field(description="judged drafts that were rejected")
    escalation_delay_s: float | None = Field(description="mean time a rejected draft took")
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    cost_usd: float
    baseline_usd: float
    saved_usd: Interval
    saved_ratio: Interval = Field(description="of the baseline")
    layers: dict[Layer, Interval | None]
    answers_usd: float = Field(description="attempts that answered")
    router_usd: float
    wasted_drafts_usd: float
    judging_usd: float
    lost_usd: float
    shadow_usd: float
    n_graded: int
    quality: Interval | None
    frontier_quality: Interval | None


class ReplicaUse(Record):
    """What one replica of our own engines did. Tokens and seconds as far as they were reported."""

    tier: Tier
    attempts: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    engine_s: float = 0.0


class SavingsReport(Record):
    """A range of the ledger. Groups are ordered by what they cost, days by date."""

    since: str | None
    until: str | None
    first_at: str | None
    last_at: str | None
    config: SavingsConfig
    prefill: tuple[PrefillSpeed, ...]
    total: Savings
    by_tenant: dict[str, Savings]
    by_category: dict[str, Savings]
    by_day: dict[str, Savings]
    by_replica: dict[str, ReplicaUse] = Field(description="the busiest first")
    reject_reasons: dict[str, int]
    decisions: dict[str, int]


# Columns of a unit's sums.
_MONEY = ("baseline", "cost", *Layer)
_COLUMN = {name: index for index, name in enumerate((*_MONEY, "n_graded", "quality", "frontier_quality"))}


@dataclass(slots=True)
class _Group:
    """Running sums of one group."""

    units: dict[int, Floats] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    served: dict[Tier, int] = field(default_factory=dict)

    def count(self, name: str, by: float = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by

    def unit(self, number: int) -> Floats:
        return self.units.setdefault(number, np.zeros(len(_COLUMN)))


class SavingsBook:
    """Adds requests one by one, in any order. Memory grows with groups, not with requests."""

    def __init__(self, prefill: Iterable[PrefillSpeed], config: SavingsConfig) -> None:
        self._config = config
        self._prefill = tuple(prefill)
        self._s_per_token = {(speed.tier, speed.model): speed.s_per_token for speed in self._prefill}
        self._total = _Group()
        self._by: dict[str, dict[str, _Group]] = {"tenant": {}, "category": {}, "day": {}}
        self._first: str | None = None
        self._last: str | None = None
        self._replicas: dict[str, ReplicaUse] = {}
        self._reasons: dict[str, int] = {}
        self._decisions: dict[str, int] = {}

    def add(self, record: RequestRecord, grade: Grade | None = None) -> None:
        """Add one request."""
        category = record.features.category if record.features else "none"
        keys = {"tenant": record.tenant, "category": category, "day": record.at[:10]}
        groups = [self._total, *(self._by[by].setdefault(key, _Group()) for by, key in keys.items())]
        row = self._row(record, grade)
        unit = _unit(record)
        for group in groups:
            _count(group, record, priced=row is not None)
            if row is not None:
                sums = group.unit(unit)
                sums += row
                for purpose, usd in _purposes(record).items():
                    group.count(purpose, usd)
        for attempt in record.attempts:
            if attempt.replica_id is not None:
                self._replicas[attempt.replica_id] = _used(self._replicas.get(attempt.replica_id), attempt)
        self._first = min(self._first or record.at, record.at)
        self._last = max(self._last or record.at, record.at)
        for reason in record.verdict.reasons if record.verdict else ():
            self._reasons[reason] = self._reasons.get(reason, 0) + 1
        if record.decision is not None:
            self._decisions[record.decision.reason] = self._decisions.get(record.decision.reason, 0) + 1

    def report(self, since: str | None = None, until: str | None = None) -> SavingsReport:
        """The report on all requests so far."""
        draws: dict[int, Floats] = {}

        def settle(groups: Mapping[str, _Group]) -> dict[str, Savings]:
            return {key: self._settle(group, draws) for key, group in groups.items()}

        def by_cost(groups: Mapping[str, Savings]) -> dict[str, Savings]:
            return dict(sorted(groups.items(), key=lambda item: (-item[1].cost_usd, item[0])))

        return SavingsReport(
            since=since,
            until=until,
            first_at=self._first,
            last_at=self._last,
            config=self._config,
            prefill=self._prefill,
            total=self._settle(self._total, draws),
            by_tenant=by_cost(settle(self._by["tenant"])),
            by_category=by_cost(settle(self._by["category"])),
            by_day=dict(sorted(settle(self._by["day"]).items())),
            by_replica=dict(
                sorted(self._replicas.items(), key=lambda item: (-item[1].attempts, item[0]))[:MAX_REPLICAS]
            ),
            reject_reasons=_most_first(self._reasons),
            decisions=_most_first(self._decisions),
        )

    def _row(self, record: RequestRecord, grade: Grade | None) -> Floats | None:
        """The request's money by column. None when its cost or its baseline is not known."""
        served = record.served_tier is not None
        baseline_usd = record.baseline_cost_usd if served else 0.0
        if record.cost_usd is None or baseline_usd is None:
            return None
        row = np.zeros(len(_COLUMN))
        row[_COLUMN["baseline"]] = baseline_usd
        if served:
            row[_COLUMN[Layer.ROUTING]] = baseline_usd
        answer = answering_attempt(record)
        for index, attempt in enumerate(record.attempts):
            cost_usd = attempt.cost_usd or 0.0
            cache_usd = self._cache_saved_usd(attempt)
            kernel_usd = 0.0
            if attempt.provider == SELF_PROVIDER and self._config.kernel_speedup is not None:
                kernel_usd = (self._config.kernel_speedup - 1) * (cost_usd + cache_usd)
            row[_COLUMN["cost"]] += cost_usd
            row[_COLUMN[Layer.PREFIX_CACHE]] += cache_usd
            row[_COLUMN[Layer.KERNEL]] += kernel_usd
            row[_COLUMN[layer_of(attempt, is_answer=index == answer)]] -= cost_usd + cache_usd + kernel_usd
        quality = None if grade is None else grade.of(record.served_tier)
        if grade is not None and quality is not None and grade.frontier_quality is not None:
            row[_COLUMN["n_graded"]] = 1
            row[_COLUMN["quality"]] = quality
            row[_COLUMN["frontier_quality"]] = grade.frontier_quality
        return row

    def _cache_saved_usd(self, attempt: Attempt) -> float:
        """What reading the cached prompt tokens would have cost this engine. 0 where its speed is not known."""
        s_per_token = self._s_per_token.get((attempt.tier, attempt.model))
        if attempt.provider != SELF_PROVIDER or s_per_token is None or not attempt.engine_s or attempt.usage is None:
            return 0.0
        usd_per_s = (attempt.cost_usd or 0.0) / attempt.engine_s
        return (attempt.usage.cached_tokens or 0) * s_per_token * usd_per_s

    def _settle(self, group: _Group, draws: dict[int, Floats]) -> Savings:
        sums = np.array(list(group.units.values())).reshape(-1, len(_COLUMN))
        total = {name: math.fsum(sums[:, column]) for name, column in _COLUMN.items()}
        drawn = self._resample(sums, draws)

        def interval(value: float | None, values: Floats | None) -> Interval:
            return percentile_interval(value, () if value is None or values is None else values, self._config.level)

        def column(name: str) -> Floats | None:
            return None if drawn is None else drawn[:, _COLUMN[name]]

        def ratio(above: str, below: str) -> Interval | None:
            if not total[below]:
                return None
            values = None
            if drawn is not None:
                usable = drawn[:, _COLUMN[below]] > 0
                values = drawn[usable, _COLUMN[above]] / drawn[usable, _COLUMN[below]]
            return interval(total[above] / total[below], values)

        measured = {
            Layer.PREFIX_CACHE: bool(self._prefill),
            Layer.KERNEL: self._config.kernel_speedup is not None,
        }
        saved_usd = math.fsum((total["baseline"], -total["cost"]))
        saved = None if drawn is None else drawn[:, _COLUMN["baseline"]] - drawn[:, _COLUMN["cost"]]
        kept = ratio("cost", "baseline")
        count = group.counts
        judged, escalated = int(count.get("judged", 0)), int(count.get("escalated", 0))
        return Savings(
            requests=int(count.get("requests", 0)),
            unpriced=int(count.get("unpriced", 0)),
            unserved=int(count.get("unserved", 0)),
            degraded=int(count.get("degraded", 0)),
            served=dict(sorted(group.served.items())),
            judged=judged,
            escalated=escalated,
            escalation_delay_s=count.get("escalation_s", 0.0) / escalated if escalated else None,
            input_tokens=int(count.get("input_tokens", 0)),
            cached_tokens=int(count.get("cached_tokens", 0)),
            output_tokens=int(count.get("output_tokens", 0)),
            cost_usd=total["cost"],
            baseline_usd=total["baseline"],
            saved_usd=interval(saved_usd, saved),
            saved_ratio=Interval(value=None, low=None, high=None, level=self._config.level)
            if kept is None
            else Interval(
                value=None if kept.value is None else 1 - kept.value,
                low=None if kept.high is None else 1 - kept.high,
                high=None if kept.low is None else 1 - kept.low,
                level=self._config.level,
            ),
            layers={
                layer: interval(total[layer], column(layer)) if measured.get(layer, True) else None for layer in Layer
            },
            answers_usd=count.get("answers", 0.0),
            router_usd=count.get("router", 0.0),
            wasted_drafts_usd=count.get("wasted_drafts", 0.0),
            judging_usd=count.get("judging", 0.0),
            lost_usd=count.get("lost", 0.0),
            shadow_usd=count.get("shadow", 0.0),
            n_graded=int(total["n_graded"]),
            quality=ratio("quality", "n_graded"),
            frontier_quality=ratio("frontier_quality", "n_graded"),
        )

    def _resample(self, sums: Floats, draws: dict[int, Floats]) -> Floats | None:
        """Sums of units drawn with replacement, shape (n_resamples, columns). None for too few units.

        Draws how often each unit occurs instead of the rows of `routing.intervals.drawn_rows`. All sums of all
        resamples are then one matrix product, and groups of one size share the draws. A report has hundreds of groups.
        """
        n = len(sums)
        if n < MIN_UNITS:
            return None
        if n not in draws:
            draws.clear()  # groups of one size share their draws. One size is kept at a time
            rng = np.random.default_rng(self._config.seed)
            draws[n] = rng.multinomial(n, np.full(n, 1 / n), self._config.n_resamples).astype(np.float64)
        return np.asarray(draws[n] @ sums)


def answering_attempt(record: RequestRecord) -> int | None:
    """Position of the attempt whose answer the client got: the last draft or frontier try of the serving tier."""
    kind = {Tier.TIER1: AttemptKind.DRAFT, Tier.FRONTIER: AttemptKind.FRONTIER}.get(record.served_tier or Tier.ROUTER)
    return max((i for i, attempt in enumerate(record.attempts) if attempt.kind is kind), default=None)


def layer_of(attempt: Attempt, *, is_answer: bool) -> Layer:
    """The layer that an attempt's cost is charged to."""
    if attempt.kind is AttemptKind.SHADOW:
        return Layer.SHADOW
    if is_answer or attempt.kind is AttemptKind.ROUTER:
        return Layer.ROUTING
    if attempt.kind in (AttemptKind.JUDGE, AttemptKind.SAMPLE) or _thrown_away(attempt):
        return Layer.GATE
    return Layer.LOST


def _thrown_away(attempt: Attempt) -> bool:
    rejected = (AttemptOutcome.REJECTED, AttemptOutcome.ABORTED)
    return attempt.kind is AttemptKind.DRAFT and attempt.outcome in rejected


def _purposes(record: RequestRecord) -> dict[str, float]:
    """The request's dollars by what they were spent on. They add up to its cost."""
    answer = answering_attempt(record)
    spent: dict[str, float] = {}
    for index, attempt in enumerate(record.attempts):
        if attempt.kind is AttemptKind.SHADOW:
            purpose = "shadow"
        elif index == answer:
            purpose = "answers"
        elif attempt.kind is AttemptKind.ROUTER:
            purpose = "router"
        elif attempt.kind in (AttemptKind.JUDGE, AttemptKind.SAMPLE):
            purpose = "judging"
        else:
            purpose = "wasted_drafts" if _thrown_away(attempt) else "lost"
        spent[purpose] = spent.get(purpose, 0.0) + (attempt.cost_usd or 0.0)
    return spent


def _count(group: _Group, record: RequestRecord, *, priced: bool) -> None:
    group.count("requests")
    group.count("unpriced", not priced)
    group.count("unserved", record.served_tier is None)
    group.count("degraded", record.degraded)
    if record.served_tier is not None:
        group.served[record.served_tier] = group.served.get(record.served_tier, 0) + 1
    if record.verdict is not None:
        group.count("judged")
        if not record.verdict.accepted:
            group.count("escalated")
            drafts = [a.duration_s for a in record.attempts if a.kind is AttemptKind.DRAFT]
            group.count("escalation_s", sum(drafts))
    for attempt in record.attempts:
        if attempt.usage is not None:
            group.count("input_tokens", attempt.usage.input_tokens)
            group.count("cached_tokens", attempt.usage.cached_tokens or 0)
            group.count("output_tokens", attempt.usage.output_tokens)


def _used(so_far: ReplicaUse | None, attempt: Attempt) -> ReplicaUse:
    known = ReplicaUse(tier=attempt.tier) if so_far is None else so_far
    usage = attempt.usage
    return ReplicaUse.model_construct(  # numbers of valid rows, added up for each of them
        tier=known.tier,
        attempts=known.attempts + 1,
        input_tokens=known.input_tokens + (usage.input_tokens if usage else 0),
        cached_tokens=known.cached_tokens + ((usage.cached_tokens or 0) if usage else 0),
        output_tokens=known.output_tokens + (usage.output_tokens if usage else 0),
        engine_s=known.engine_s + (attempt.engine_s or 0.0),
    )


def _unit(record: RequestRecord) -> int:
    """Requests of one session depend on each other, so they are drawn together."""
    name = record.request_id if record.session_id is None else f"{record.tenant}\0{record.session_id}"
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) % N_UNITS


def _most_first(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
