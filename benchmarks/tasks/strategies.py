"""Every way to choose a tier, replayed over answers that both tiers gave: what is shown, what it costs.

The heads and sequences are those of serving (routing/), the grades and dollars those of tasks and ledger. Only the
order of events is ours. A strategy that is not real (random, the ideal choice)
is marked by having no cost of its own signals.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.tasks.pairs import Asked
from routing.gate.signal_order import Ruling, rule
from routing.heads.decide import signal_of
from routing.heads.evidence import HeadKind, evidence_of
from routing.heads.head import Panel
from routing.records import AttemptKind, Signal

Floats = NDArray[np.float64]
PAID = {Signal.SAMPLES: AttemptKind.SAMPLE, Signal.VERDICT: AttemptKind.JUDGE}


@dataclass(frozen=True)
class Outcome:
    """What one strategy does with each request, shape (n,) each.

    shown: share of the request that tier 1's answer serves, 0 or 1 (between them for a random choice). cost_usd: NaN
    where a price is unknown.
    """

    name: str
    shown: Floats
    cost_usd: Floats


@dataclass(frozen=True)
class Columns:
    """What strategies read of the answered tasks, shape (n,) each."""

    tier1: Floats
    frontier: Floats
    draft_usd: Floats
    frontier_usd: Floats
    router_usd: Floats
    categories: tuple[str, ...]

    @property
    def bad(self) -> Floats:
        """1 where showing tier 1's answer is worse than the frontier's."""
        return (self.tier1 < self.frontier).astype(float)


def columns(asked: Sequence[Asked]) -> Columns:
    """The columns of these tasks."""

    def usd(kind: AttemptKind) -> Floats:
        costs = [one.cost_usd(kind) for one in asked]
        return np.array([np.nan if cost is None else cost for cost in costs])

    return Columns(
        tier1=np.array([one.pair.tier1_quality for one in asked]),
        frontier=np.array([one.pair.frontier_quality for one in asked]),
        draft_usd=usd(AttemptKind.DRAFT),
        frontier_usd=usd(AttemptKind.FRONTIER),
        router_usd=usd(AttemptKind.ROUTER),
        categories=tuple(one.pair.category for one in asked),
    )


def baselines(data: Columns, frontier_ratio: float) -> list[Outcome]:
    """All tier 1, all frontier, and a random choice with the same share of frontier answers."""
    n = data.tier1.size
    random = data.draft_usd * (1 - frontier_ratio) + data.frontier_usd * frontier_ratio
    return [
        Outcome("all tier 1", np.ones(n), data.draft_usd),
        Outcome("all frontier", np.zeros(n), data.frontier_usd),
        Outcome("random, same share", np.full(n, 1 - frontier_ratio), random),
    ]


def learned(asked: Sequence[Asked], data: Columns, router: Panel, gate: Panel, target: float) -> list[Outcome]:
    """Router only, gate only and both, at one quality target."""
    alone, joint = routed(asked, router, target)
    accepted, gate_usd = gated(asked, gate, target)
    escalated = data.frontier_usd * ~accepted
    drafted = data.draft_usd + gate_usd + escalated
    return [
        Outcome(
            "router only", alone.astype(float), data.router_usd + np.where(alone, data.draft_usd, data.frontier_usd)
        ),
        Outcome("gate only", accepted.astype(float), drafted),
        Outcome(
            "router + gate",
            (joint & accepted).astype(float),
            data.router_usd + np.where(joint, drafted, data.frontier_usd),
        ),
    ]


def routed(asked: Sequence[Asked], router: Panel, target: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the router sends each request to tier 1: by its own promise, and in front of the gate."""
    sequences = router.sequences(target)
    joint = next((j.by_category for j in router.manifest.joint if j.quality_target == target), {})
    alone_says, joint_says = [], []
    for one in asked:
        evidence = evidence_of(one.pair, HeadKind.ROUTER)
        p, category = router.score(evidence).p_tier1_ok, one.pair.category
        known = [w for w in sequences if w.looks[0].reads.known(evidence)]
        promised = known[-1].by_category.get(category) if known else None
        alone_says.append(promised is not None and promised.threshold is not None and p >= promised.threshold)
        joint_says.append(category in joint and p >= joint[category])
    return np.array(alone_says), np.array(joint_says)


def gated(asked: Sequence[Asked], gate: Panel, target: float) -> tuple[NDArray[np.bool_], Floats]:
    """Whether the gate accepts each draft, and what its signals cost until it knew."""
    sequence = gate.sequences(target)[-1]
    prices = [step.price_ratio for step in sequence.looks]
    accepted, paid = [], []
    for one in asked:
        evidence = evidence_of(one.pair, HeadKind.GATE)
        promised = sequence.by_category.get(one.pair.category)
        threshold = None if promised is None else promised.threshold
        ps, cost = [], 0.0
        for number, step in enumerate(sequence.looks):
            if not step.reads.known(evidence):
                ruling = Ruling.REJECT  # asked for in vain; what it cost is in the attempts that were
                break
            if number:
                signal = signal_of(sequence.looks[number - 1].reads, step.reads)
                assert signal is not None
                spent = one.cost_usd(PAID[signal])
                cost = np.nan if spent is None else cost + spent
            ps.append(gate.score(evidence, step.reads).p_tier1_ok)
            if (ruling := rule(ps, prices, threshold)) is not Ruling.BUY:
                break
        accepted.append(ruling is Ruling.ACCEPT)
        paid.append(cost)
    return np.array(accepted), np.array(paid)


def p_accept(asked: Sequence[Asked], gate: Panel) -> Floats:
    """The gate's probability that each draft may be shown, with every signal, shape (n,)."""
    return np.array([gate.score(evidence_of(one.pair, HeadKind.GATE)).p_tier1_ok for one in asked])


def p_tier1_ok(asked: Sequence[Asked], router: Panel) -> Floats:
    """The router's, from the prompt alone, shape (n,)."""
    return np.array([router.score(evidence_of(one.pair, HeadKind.ROUTER)).p_tier1_ok for one in asked])
