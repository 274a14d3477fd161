"""The layers section of `python -m benchmarks run`: the table, the factors and the sentences beside the claims."""

from pathlib import Path
from typing import Any

from benchmarks.layers.measure import measure as measure_layers
from benchmarks.layers.row import SOON_S
from benchmarks.load.child_stack import LayersError, read_profile
from benchmarks.load.text_table import columns, number, spread
from benchmarks.run.lab import Labs
from benchmarks.run.plan import Plan

PER_KIND = 4
CONCURRENCY = 4
HEAD = (
    "", "usd/1k (95 %)", "frontier + own", "rented", "requests/s (parts)", f"< {SOON_S:g} s all / tier 1 / frontier",
    "right (95 %)", "hits", "by tier 1", "drafts refused", "failed",
)  # fmt: skip
FACTORS_HEAD = ("over the row before", "bill (95 %)", "own engines (95 %)", "throughput", "accuracy (95 %)")
QUICK = "its engines have real weights, which a quick run has no time for (python -m benchmarks layers --quick)"


def measure(plan: Plan, _: Labs) -> dict[str, Any]:
    """See `Section`. Engines are started with layers off and on, so a running stack cannot be measured."""
    if plan.quick:
        return {"rows": [], "left_out": QUICK}
    if plan.url is not None:
        raise SystemExit("the layers are engine switches: they are measured on stacks of their own, without --url")
    try:
        read_profile(plan.profile)
    except LayersError as error:
        return {"rows": [], "left_out": str(error)}
    return measure_layers(plan.profile, per_kind=PER_KIND, concurrency=CONCURRENCY, seed=plan.seed)


def table(found: dict[str, Any]) -> str:
    """A line a row, a line a factor, a sentence a claim."""
    if not found["rows"]:
        return f"left out: {found['left_out']}"
    factors = [*found["factors"], {"name": "all layers", "own_usd": None, **found["together"]}]
    return "\n".join(
        (
            f"{found['questions']} questions a row after {found['warm_up']} that warm up, {found['concurrency']} under "
            "way; dollars per 1,000 requests, of own engines for busy time and, rented, for all of it",
            columns(HEAD, [cells(row) for row in found["rows"]]),
            "",
            columns(FACTORS_HEAD, [factor_cells(factor) for factor in factors]),
            "",
            f"tier 1 alone is right on {found['tier1_accuracy']:.2f} of the questions",
            *(claim["sentence"] for claim in found["claims"]),
        )
    )


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One line's figures."""
    soon = (number(row["latency"][tier]["soon_ratio"]) for tier in ("all", "tier1", "frontier"))
    return (
        row["row"],
        spread(row, "usd", 3),
        f"{number(row['frontier_usd'], 3)} + {number(row['own_usd'], 3)}",
        number(row["rented_usd"], 3),
        spread(row, "throughput_rps"),
        " / ".join(soon),
        spread(row, "accuracy"),
        number(row["hit_ratio"]),
        number(row["tier1_ratio"]),
        f"{number(row['rejected_ratio'])} of {number(row['drafted_ratio'])}",
        str(row["failed"]),
    )


def factor_cells(factor: dict[str, Any]) -> tuple[str, ...]:
    """One line's factors: below 1 is cheaper."""
    return (
        factor["name"],
        interval(factor["usd"], 3),
        interval(factor["own_usd"], 2),
        f"{factor['throughput']:.2f}x",
        interval(factor["accuracy"], 2),
    )


def interval(found: dict[str, Any] | None, digits: int) -> str:
    """Value (low-high), or a dash."""
    if found is None or found["value"] is None:
        return "-"
    return f"{number(found['value'], digits)} ({number(found['low'], digits)}-{number(found['high'], digits)})"


def plot(found: dict[str, Any], path: Path) -> None:
    """See benchmarks/run/section.py."""
    if found["rows"]:
        from benchmarks.layers.plot import plot as draw  # noqa: PLC0415 - matplotlib is an extra

        draw(found["rows"], path)
