"""What each layer is worth: its row over the row before, request by request on the same questions. Pure."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.layers.row import Answered
from routing.intervals import Interval, bootstrap_interval
from routing.records import Record

Floats = NDArray[np.float64]
NOT_MEASURED = Interval(value=None, low=None, high=None)


class Factor(Record):
    """A layer against the row before it: 1 changes nothing, below 1 is cheaper. Intervals: bootstrap over questions.

    own_usd: of our own engines' part of the bill alone. None where the row before did not use them.
    """

    name: str
    usd: Interval
    own_usd: Interval
    throughput: float
    accuracy: Interval


class Together(Record):
    """The last row against the first."""

    usd: Interval
    accuracy: Interval
    throughput: float


def factor(
    name: str, before: Sequence[Answered], after: Sequence[Answered], throughputs: tuple[float, float]
) -> Factor:
    """Compare two rows, paired by task. throughputs: (before, after). Raises ValueError when the tasks differ."""
    before, after = paired(before, after)
    return Factor(
        name=name,
        usd=ratio_of(column(after, lambda r: r.usd), column(before, lambda r: r.usd)),
        own_usd=ratio_of(column(after, lambda r: r.own_usd), column(before, lambda r: r.own_usd)),
        throughput=throughputs[1] / throughputs[0],
        accuracy=ratio_of(column(after, lambda r: r.quality), column(before, lambda r: r.quality)),
    )


def paired(before: Sequence[Answered], after: Sequence[Answered]) -> tuple[list[Answered], list[Answered]]:
    """Both in the order of the first one's tasks."""
    by_task = {r.task: r for r in after}
    if len(by_task) != len(after) or by_task.keys() != {r.task for r in before} or len(before) != len(after):
        raise ValueError("two rows are compared on the same questions, each asked once")
    return list(before), [by_task[r.task] for r in before]


def column(requests: Sequence[Answered], value: Callable[[Answered], float | None]) -> Floats | None:
    """One value of each request. None when one of them is not known."""
    values = [value(r) for r in requests]
    return None if any(v is None for v in values) else np.array(values, dtype=np.float64)


def ratio_of(part: Floats | None, whole: Floats | None) -> Interval:
    """Sum over sum, with the interval over questions drawn again. Nothing when one is not known or the whole is 0."""
    if part is None or whole is None or whole.sum() <= 0:
        return NOT_MEASURED
    return bootstrap_interval(lambda p, w: float(p.sum() / w.sum()) if w.sum() > 0 else None, [part, whole])


def together(first: Sequence[Answered], last: Sequence[Answered], throughputs: tuple[float, float]) -> Together:
    """All layers at once. The product of the factors is its usd.value, because each begins where the last one ended."""
    whole = factor("together", first, last, throughputs)
    return Together(usd=whole.usd, accuracy=whole.accuracy, throughput=whole.throughput)


class Ceiling(Record):
    """What a choice that knows every grade beforehand would save, with these two models on these questions."""

    accuracy_ratio: float
    kept_ratio: float
    saved_ratio: float


def ceiling(
    tier1_quality: Mapping[str, float], frontier: Sequence[Answered], own_usd: float, accuracy_ratio: float
) -> Ceiling | None:
    """Keep on tier 1 what it answers as well, then the most expensive of the rest while the accuracy lasts.

    own_usd: of a request that tier 1 answers, router included. None when the frontier's bill is not known or it is
    right on nothing.
    """
    right = sum(r.quality for r in frontier)
    bill = column(frontier, lambda r: r.usd)
    if bill is None or bill.sum() <= 0 or right <= 0:
        return None
    losses = np.array([r.quality - tier1_quality[r.task] for r in frontier])
    kept = losses <= 0
    spare = right * (1 - accuracy_ratio) - float(losses[kept].sum())
    for place in sorted(np.flatnonzero(~kept), key=lambda i: -bill[i] / losses[i]):
        if losses[place] <= spare + 1e-12:
            kept[place], spare = True, spare - losses[place]
    spent = float(bill[~kept].sum()) + own_usd * float(kept.sum())
    return Ceiling(
        accuracy_ratio=accuracy_ratio, kept_ratio=float(kept.mean()), saved_ratio=1 - spent / float(bill.sum())
    )
