"""Before and after with intervals: what was shown, how often the frontier answered, what the ledger says it cost."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.flywheel.turn import Turn
from benchmarks.tasks.asking import Answer
from benchmarks.tasks.grading import grade
from benchmarks.tasks.task import Task
from routing.intervals import Interval, bootstrap_interval
from routing.records import RequestRecord, Tier

Floats = NDArray[np.float64]
ENOUGH = 0.91  # of the frontier's accuracy: what a tier 1 needs to keep 70 to 80 % of the traffic
ALL = "all"


def grades(tasks: Sequence[Task], answers: Sequence[Answer]) -> Floats:
    """Grade of each task's answer, shape (n_tasks,). Raises KeyError for a task without one."""
    said = {answer.task: answer.output or "" for answer in answers}
    return np.array([grade(task.verifier, said[task.id]) for task in tasks])


def tier1_rows(made: Turn, key: Callable[[Task], str]) -> list[dict[str, Any]]:
    """Per category or kind and in all: base, adapter and frontier on the same held-out questions.

    of_frontier: accuracy as a share of the frontier's. None where the frontier is never right.
    """
    base, adapter, frontier = (grades(made.test, a) for a in (made.base, made.adapter, made.frontier))
    names = np.array([key(task) for task in made.test])
    rows = []
    for name in [*sorted(set(names)), ALL]:
        mine = names == name if name != ALL else np.ones(names.size, bool)
        row: dict[str, Any] = {"name": name, "n": int(mine.sum()), "frontier": mean(frontier[mine])}
        for which, quality in (("base", base), ("adapter", adapter)):
            row[which] = mean(quality[mine])
            row[f"{which}_of_frontier"] = share(quality[mine], frontier[mine])
        row["gain"] = mean((adapter - base)[mine])
        rows.append(row)
    return rows


def served_row(name: str, made: Turn, answers: Sequence[Answer]) -> dict[str, Any]:
    """What `auto` did: accuracy, its share of the frontier's, share of requests that the frontier answered, dollars."""
    quality, frontier = grades(made.test, answers), grades(made.test, made.frontier)
    sent, cost = ledger_columns(made, answers)
    return {
        "name": name,
        "accuracy": mean(quality),
        "of_frontier": share(quality, frontier),
        "frontier_share": mean(sent),
        "usd_per_1000": None if cost is None else mean(1000 * cost),
    }


def change_row(made: Turn) -> dict[str, Any] | None:
    """After minus before on the same questions; frontier share and cost also as ratios. None without an after."""
    if made.after is None:
        return None
    (sent, cost), (sent_after, cost_after) = (ledger_columns(made, a) for a in (made.before, made.after))
    return {
        "accuracy": mean(grades(made.test, made.after) - grades(made.test, made.before)),
        "frontier_share_ratio": share(sent_after, sent),
        "cost_ratio": None if cost is None or cost_after is None else share(cost_after, cost),
    }


def ledger_columns(made: Turn, answers: Sequence[Answer]) -> tuple[Floats, Floats | None]:
    """(1 where the frontier answered, dollars) per task, from the ledger. Dollars None when a price is unknown."""
    by_task = {answer.task: answer for answer in answers}
    rows: list[RequestRecord] = [made.rows[by_task[task.id].request_id or ""] for task in made.test]
    sent = np.array([float(row.served_tier is Tier.FRONTIER) for row in rows])
    costs = [row.cost_usd for row in rows]
    return sent, None if None in costs else np.array([c for c in costs if c is not None])


def mean(values: Floats) -> Interval:
    """Mean with its bootstrap interval."""
    return bootstrap_interval(lambda v: float(v.mean()), [values])


def share(part: Floats, whole: Floats) -> Interval:
    """Sum over sum with its bootstrap interval. Resamples without a whole are left out."""
    return bootstrap_interval(lambda p, w: float(p.sum() / w.sum()) if w.sum() else None, [part, whole])


def document(made: Turn, quality_target: float) -> dict[str, Any]:
    """Everything that is kept."""
    categories = tier1_rows(made, lambda task: task.category)
    reaching = [r["name"] for r in categories if r["name"] != ALL and (r["adapter_of_frontier"].value or 0.0) >= ENOUGH]
    served = [served_row("before", made, made.before)]
    served += [] if made.after is None else [served_row("after", made, made.after)]
    return {
        "quality_target": quality_target,
        "n_test": len(made.test),
        "n_labels": made.n_labels,
        "promoted_for": list(made.categories),
        "refused": list(made.refused),
        "categories": plain(categories),
        "kinds": plain(tier1_rows(made, lambda task: task.kind)),
        "categories_at_or_above_enough": reaching,
        "served": plain(served),
        "change": plain(change_row(made)),
    }


def plain(value: Any) -> Any:
    """Intervals as JSON."""
    if isinstance(value, Interval):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list) else value


def shown(interval: dict[str, Any] | None, digits: int = 3) -> str:
    """A figure with its interval, or a dash for what was not measured."""
    if interval is None or interval["value"] is None:
        return "-"
    ends = "" if interval["low"] is None else f" ({interval['low']:.{digits}f}-{interval['high']:.{digits}f})"
    return f"{interval['value']:.{digits}f}{ends}"
