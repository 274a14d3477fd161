"""What is published about each layer, and a sentence on how far our figure is from it, made of what was measured."""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from pydantic import Field

from benchmarks.layers.factors import Ceiling, Factor, Together, column, factor
from benchmarks.layers.row import Answered, Row
from routing.intervals import Interval
from routing.records import Record, Tier

FRONTIER, ROUTING, GATE, PREFIX, REPLICAS = (
    "all frontier", "+ routing", "+ gate", "+ prefix caching", "+ KV-aware replicas",
)  # fmt: skip
KERNEL_SPEEDUP = 2.7
TOGETHER_SAVED = (0.70, 0.75)


class Where(StrEnum):
    """Our figure beside a published range."""

    BELOW = "below"
    WITHIN = "within"
    ABOVE = "above"
    UNKNOWN = "not measured"


class Comparison(Record):
    """One claim and what was found. saved: 1 less the factor of the bill, for the kernels of our engines' bill."""

    claim: str
    published: str
    low: float
    high: float
    saved: Interval
    where: Where
    sentence: str = Field(description="every figure in it is computed")


class Measured(Record):
    """All rows that were played, in order, with their requests by name."""

    rows: tuple[Row, ...]
    requests: dict[str, tuple[Answered, ...]]

    def row(self, name: str) -> Row | None:
        """The figures of a row, None: it was not played."""
        return next((r for r in self.rows if r.name == name), None)

    def factors(self) -> list[Factor]:
        """Every row over the one before it."""
        pairs = zip(self.rows, self.rows[1:], strict=False)
        return [self.over(before.name, after.name) for before, after in pairs]

    def over(self, before: str, after: str) -> Factor:
        """One row over another."""
        rows = {r.name: r for r in self.rows}
        throughputs = (rows[before].throughput_rps, rows[after].throughput_rps)
        return factor(after, self.requests[before], self.requests[after], throughputs)


def compare(measured: Measured, whole: Together, ceiling: Ceiling | None) -> list[Comparison]:
    """Beside each published claim whose layers were measured, our figure and the difference in words."""
    found = []
    if measured.row(FRONTIER) and measured.row(ROUTING):
        found.append(routing_claim(measured, GATE if measured.row(GATE) else ROUTING))
    if measured.row(GATE) and measured.row(PREFIX):
        found.append(caching_claim(measured))
    if measured.row(REPLICAS) and measured.rows[-1].name != REPLICAS:
        found.append(kernel_claim(measured))
    return [*found, together_claim(whole, found, ceiling)]


def routing_claim(measured: Measured, last: str) -> Comparison:
    """Routing with its gate, because a saving is worth what it leaves of the quality."""
    over, row = measured.over(FRONTIER, last), measured.row(last)
    assert row is not None
    kept = bill_share(measured.requests[FRONTIER], {r.task for r in measured.requests[last] if r.tier is Tier.TIER1})
    own = share(row.own_usd, measured.rows[0].usd.value)
    thrown = "" if row.rejected_ratio is None else f"; {percent(row.rejected_ratio)} of the drafts were thrown away"
    why = (
        f"tier 1 answered {percent(row.tier1_ratio)} of the requests, which are {percent(kept)} of the frontier's "
        f"bill, and choosing and drafting cost {percent(own)} of it{thrown}"
    )
    return comparison("routing", "saves 30 to 60 %", (0.30, 0.60), saved(over.usd), why)


def caching_claim(measured: Measured) -> Comparison:
    """Prefix caching on our own engines. The provider's cache is in the baseline already."""
    over, before, after = measured.over(GATE, PREFIX), measured.row(GATE), measured.row(PREFIX)
    assert before is not None
    assert after is not None
    bill = before.usd.value
    why = (
        f"{percent(after.hit_ratio)} of our engines' prompt tokens were cached and their seconds a request went from "
        f"{before.own_s:.2f} to {after.own_s:.2f}, but they were {percent(share(before.own_usd, bill))} of the bill "
        f"before, so that is {percent(change(before.own_usd, after.own_usd, bill))} of it; the frontier's part, whose "
        f"own cache is in every row, moved by {percent(change(before.frontier_usd, after.frontier_usd, bill))}"
    )
    return comparison("caching", "saves 12 to 22 % at about 25 % hits", (0.12, 0.22), saved(over.usd), why)


def kernel_claim(measured: Measured) -> Comparison:
    """All rows after the replicas: they make our engines cheaper, so they are compared on our engines' bill."""
    before, after = measured.row(REPLICAS), measured.rows[-1]
    assert before is not None
    over = measured.over(REPLICAS, after.name)
    low = 1 - 1 / KERNEL_SPEEDUP
    times = "an unknown number of" if not over.own_usd.value else f"{1 / over.own_usd.value:.2f}"
    why = (
        f"a request took {before.own_s:.2f} engine seconds before and {after.own_s:.2f} after ({times} times cheaper), "
        f"the whole stack answered {over.throughput:.2f} times as many requests a second; of the bill our engines were "
        f"{percent(share(before.own_usd, before.usd.value))}"
    )
    return comparison("kernels", f"{KERNEL_SPEEDUP} times cheaper engines", (low, low), saved(over.own_usd), why)


def together_claim(whole: Together, found: Sequence[Comparison], ceiling: Ceiling | None) -> Comparison:
    """The product, the layer that falls shortest of its claim, and what the two models would allow at best."""
    short = [(c.low - c.saved.value, c.claim) for c in found if c.saved.value is not None and c.where is Where.BELOW]
    why = f"at {percent(whole.accuracy.value)} of the frontier's accuracy"
    if short:
        why += f"; the layer furthest below its claim is {max(short)[1]}"
    elif found:
        why += "; no layer is below its claim"
    if ceiling is not None:
        lift = (
            "so better labels for router and gate would lift it"
            if ceiling.saved_ratio >= TOGETHER_SAVED[0]
            else "so only a better tier 1, or a dearer frontier, would lift it that far"
        )
        why += (
            f"; a choice that knew every grade would keep {percent(ceiling.kept_ratio)} on tier 1 and save "
            f"{percent(ceiling.saved_ratio)} at {percent(ceiling.accuracy_ratio)}, {lift}"
        )
    return comparison("together", "saves 70 to 75 %", TOGETHER_SAVED, saved(whole.usd), why)


def comparison(claim: str, published: str, wanted: tuple[float, float], found: Interval, why: str) -> Comparison:
    """Where our figure lies, and the sentence."""
    low, high = wanted
    where = placed(found.value, low, high)
    if found.value is None or found.low is None or found.high is None:
        sentence = f"{claim}: not measured, an attempt has no known price"
    else:
        touches = where is not Where.WITHIN and found.low <= high and found.high >= low
        reach = ", though the interval reaches it" if touches else ""
        sentence = (
            f"{claim}: {percent(found.value)} saved ({percent(found.low)} to {percent(found.high)}), {where} what is "
            f"published ({published}){reach}: {why}."
        )
    return Comparison(claim=claim, published=published, low=low, high=high, saved=found, where=where, sentence=sentence)


def placed(value: float | None, low: float, high: float) -> Where:
    """Beside a range. A claim of one figure (low = high) is met from there on."""
    if value is None:
        return Where.UNKNOWN
    if value < low:
        return Where.BELOW
    return Where.ABOVE if value > high > low else Where.WITHIN


def saved(ratio: Interval) -> Interval:
    """1 less a factor, ends in order."""
    if ratio.value is None or ratio.low is None or ratio.high is None:
        return Interval(value=None, low=None, high=None)
    return Interval(value=1 - ratio.value, low=1 - ratio.high, high=1 - ratio.low)


def bill_share(requests: Sequence[Answered], tasks: set[str]) -> float | None:
    """Share of a row's bill that these tasks make."""
    dollars = column(requests, lambda r: r.usd)
    if dollars is None or dollars.sum() <= 0:
        return None
    return float(sum(usd for r, usd in zip(requests, dollars, strict=True) if r.task in tasks) / dollars.sum())


def share(part: float | None, whole: float | None) -> float | None:
    """Part over whole, where both are known."""
    return part / whole if part is not None and whole else None


def change(before: float | None, after: float | None, bill: float | None) -> float | None:
    """What a part of the bill became cheaper by, as a share of the bill."""
    return None if before is None or after is None or not bill else (before - after) / bill


def percent(value: float | None) -> str:
    """A share in words."""
    return (
        "an unknown share" if value is None else f"{100 * value:.1f} %" if abs(value) < 0.1 else f"{100 * value:.0f} %"
    )


def tier1_grades(requests: Sequence[Answered]) -> Mapping[str, float]:
    """Grades by task, of a row in which tier 1 was asked by name."""
    return {r.task: r.quality for r in requests}
