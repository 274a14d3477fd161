"""The suite's table: accuracy, frontier share and cost of every strategy, and what tier 1 is worth per kind of task."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from benchmarks.load.text_table import columns, decimals
from benchmarks.tasks.asking import Answer
from benchmarks.tasks.grading import grade
from benchmarks.tasks.pairs import Asked
from benchmarks.tasks.strategies import Columns, Outcome
from benchmarks.tasks.task import Task
from routing.heads.evidence import HeadKind, evidence_of
from routing.heads.head import Panel, panel_of
from routing.heads.manifest import Manifest
from routing.intervals import bootstrap_interval
from routing.learning.labels import Pair
from routing.learning.quality import auroc, ece, ece_floor, frontier_ratio_for, quality_curve
from routing.records import AttemptKind, AttemptOutcome, RequestRecord, Tier

Floats = NDArray[np.float64]


def read_panel(folder: Path, kind: HeadKind) -> Panel:
    """A trained head as serving reads it. Serving also checks its hash before it starts."""
    manifest = Manifest.model_validate_json((folder / f"{kind}.json").read_text())
    return panel_of(manifest, safetensors.numpy.load_file(folder / f"{kind}.safetensors"))


def strategy_row(outcome: Outcome, data: Columns) -> dict[str, Any]:
    """One line: accuracy with its bootstrap interval, share of the frontier's, calls, dollars, both errors."""
    quality = outcome.shown * data.tier1 + (1 - outcome.shown) * data.frontier
    accuracy = bootstrap_interval(lambda q: float(q.mean()), [quality])
    kept = bootstrap_interval(lambda q, f: float(q.mean() / f.mean()) if f.mean() else None, [quality, data.frontier])
    cost = float(outcome.cost_usd.mean())
    return {
        "strategy": outcome.name,
        "accuracy": accuracy.value,
        "accuracy_low": accuracy.low,
        "accuracy_high": accuracy.high,
        "of_frontier": kept.value,
        "of_frontier_low": kept.low,
        "of_frontier_high": kept.high,
        "frontier_share": float(1 - outcome.shown.mean()),
        "usd_per_1000": None if np.isnan(cost) else 1000 * cost,
        "bad_shown": float((outcome.shown * data.bad).mean()),
        "good_lost": float(((1 - outcome.shown) * (1 - data.bad)).mean()),
    }


def family_rows(asked: Sequence[Asked], quality_target: float) -> list[dict[str, Any]]:
    """Per kind of task and in all: both tiers, tier 1 as a share of the frontier, the escalation that a target needs.

    escalate_at_least: what a perfect choice would send up. at_random: what a blind one would. No saving beyond 1 minus
    the first can be promised.
    """
    rows = []
    for kind in [*sorted({one.task.kind for one in asked}), "all"]:
        mine = [one.pair for one in asked if kind in (one.task.kind, "all")]
        tier1 = np.array([pair.tier1_quality for pair in mine])
        frontier = np.array([pair.frontier_quality for pair in mine])
        perfect = quality_curve(tier1 - frontier, tier1, frontier)
        blind = quality_curve(np.zeros(len(mine)), tier1, frontier)
        rows.append(
            {
                "kind": kind,
                "n": len(mine),
                "tier1": float(tier1.mean()),
                "frontier": float(frontier.mean()),
                "tier1_of_frontier": float(tier1.mean() / frontier.mean()) if frontier.mean() else None,
                "escalate_at_least": frontier_ratio_for(perfect, quality_target),
                "escalate_at_random": frontier_ratio_for(blind, quality_target),
            }
        )
    return rows


def really_run(
    tasks: Mapping[str, Task],
    answers: Sequence[Answer],
    ledger: Mapping[str, RequestRecord],
    data: Columns,
    ids: Sequence[str],
) -> tuple[Outcome, dict[str, Any]]:
    """What `auto` did, as a strategy over the same tasks, and what no replay knows: attempts, cached prompts.

    Raises ValueError when an answer is missing.
    """
    by_task = {answer.task: answer for answer in answers if answer.request_id is not None}
    if missing := [i for i in ids if i not in by_task]:
        raise ValueError(f"auto did not answer {len(missing)} of {len(ids)} tasks, e.g. {missing[0]}")
    rows = [ledger[by_task[i].request_id or ""] for i in ids]
    quality = np.array([grade(tasks[i].verifier, by_task[i].output or "") for i in ids])
    shown = np.array([float(row.served_tier is Tier.TIER1) for row in rows])
    cost = np.array([np.nan if row.cost_usd is None else row.cost_usd for row in rows])
    # Sampled anew: a draft that auto showed may differ from the one that was graded before.
    seen = Columns(
        np.where(shown == 1, quality, data.tier1), np.where(shown == 0, quality, data.frontier),
        data.draft_usd, data.frontier_usd, data.router_usd, data.categories,
    )  # fmt: skip
    outcome = Outcome("auto, really run", shown, cost)
    return outcome, {**strategy_row(outcome, seen), **router_facts(rows)}


def router_facts(rows: Sequence[RequestRecord]) -> dict[str, Any]:
    """What the ledger says of the router's own calls: output tokens, share of the prompt from the cache."""
    calls = [a for row in rows for a in row.attempts if a.kind is AttemptKind.ROUTER and a.usage is not None]
    usages = [a.usage for a in calls if a.usage is not None]
    read = sum(u.input_tokens for u in usages)
    return {
        "router_calls": len(calls),
        "router_output_tokens_max": max((u.output_tokens for u in usages), default=None),
        "router_cached_ratio": sum(u.cached_tokens or 0 for u in usages) / read if read else None,
        "drafts": sum(a.kind is AttemptKind.DRAFT for row in rows for a in row.attempts),
        "drafts_rejected": sum(
            a.kind is AttemptKind.DRAFT and a.outcome is AttemptOutcome.REJECTED for row in rows for a in row.attempts
        ),
        "samples_bought": sum(a.kind is AttemptKind.SAMPLE for row in rows for a in row.attempts),
        "verdicts_bought": sum(a.kind is AttemptKind.JUDGE for row in rows for a in row.attempts),
    }


def heads_row(p_router: Floats, p_gate: Floats, data: Columns) -> dict[str, Any]:
    """How well the heads rank and are calibrated here. `ok` is what is promised: not worse than the frontier."""
    ok, bad_draft = 1 - data.bad, (data.tier1 < 0.5).astype(float)
    return {
        "router_auroc_ok": auroc(p_router, ok),
        "router_ece": ece(p_router, ok),
        "router_ece_floor": ece_floor(p_router),
        "gate_auroc_ok": auroc(p_gate, ok),
        "gate_auroc_bad_draft": auroc(-p_gate, bad_draft),
        "gate_ece": ece(p_gate, ok),
        "gate_ece_floor": ece_floor(p_gate),
    }


def head_times(pairs: Sequence[Pair], panel: Panel, name: str) -> dict[str, float]:
    """CPU milliseconds that a head takes for a request it has not seen, p50 and p99. The first one only warms up."""
    times_s = []
    panel.score(evidence_of(pairs[0], panel.manifest.kind))
    for pair in pairs[1:]:
        evidence = evidence_of(pair, panel.manifest.kind)
        began = time.thread_time()
        panel.score(evidence)
        times_s.append(time.thread_time() - began)
    p50, p99 = np.percentile(times_s, [50, 99]) * 1000
    return {f"{name}_ms_p50": float(p50), f"{name}_ms_p99": float(p99)}


def show(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> None:
    """Print one line a row and one column a name."""
    print("\n" + columns(names, [[str(row[names[0]]), *(decimals(row.get(n)) for n in names[1:])] for row in rows]))


def last_line(**parts: object) -> str:
    """The JSON document that ends every benchmark."""
    return json.dumps(parts)
