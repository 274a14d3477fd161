"""Checks the forecast: fits the cost model on one part of a ledger and predicts another part's bill.

It fits tier-1 rates from recorded engine seconds, the router's price and shares per category. It predicts from each
request's category, prompt length and answer length, which any log has. It compares with the recorded dollars.
"""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from routing.intervals import Rows, drawn_rows, percentile_interval
from routing.records import Record
from serving.audit.forecast.amortisation import EngineRates, fit_rates
from serving.audit.forecast.tier1_share import Tier1Share, observed_share
from serving.audit.formats.call import BadRows
from serving.audit.formats.ledger_export import BookedAttempt, BookedRequest, decode_row
from serving.audit.formats.log_file import MAX_LINE_BYTES, open_log
from serving.errors import AuditError

Floats = NDArray[np.float64]

RESAMPLES = 400
FEWEST_ROWS = 40  # two halves of twenty: below that a share is noise
LAYERS = ("router", "drafts", "frontier", "other")
COLUMNS = (
    "input_tokens", "output_tokens", "category", "kept", "drafted", "draft_uncached", "draft_input", "draft_output",
    "draft_s", "baseline_usd", "router", "drafts", "frontier", "other",
)  # fmt: skip


@dataclass(slots=True)
class Booked:
    """Finished requests of a ledger, one array per column, in order of their time as exported.

    kept and drafted are 0/1. draft_*: of the draft attempt. The last four are dollars by layer.
    """

    columns: "dict[str, array[float]]" = field(default_factory=lambda: {name: array("d") for name in COLUMNS})
    categories: dict[str, int] = field(default_factory=dict)
    left_out: int = 0  # failed, cancelled, unknown price or no baseline: no bill to compare

    def add(self, row: BookedRequest) -> None:
        """Take one request."""
        served = next((a for a in row.attempts if a.outcome == "served"), None)
        costs = [a.cost_usd for a in row.attempts]
        if row.outcome != "ok" or served is None or served.usage is None or None in costs or row.features is None:
            self.left_out += 1
            return
        if row.baseline_cost_usd is None:
            self.left_out += 1
            return
        draft = next((a for a in row.attempts if a.kind == "draft" and a.engine_s is not None and a.usage), None)
        usage = draft.usage if draft is not None else None
        values: dict[str, float] = {
            "input_tokens": served.usage.input_tokens,
            "output_tokens": served.usage.output_tokens,
            "category": self.categories.setdefault(row.features.category, len(self.categories)),
            "kept": served.tier == "tier1",
            "drafted": usage is not None,
            "draft_uncached": usage.input_tokens - (usage.cached_tokens or 0) if usage else 0,
            "draft_input": usage.input_tokens if usage else 0,
            "draft_output": usage.output_tokens if usage else 0,
            "draft_s": (draft.engine_s or 0.0) if draft else 0.0,
            "baseline_usd": row.baseline_cost_usd,
        } | layers(row.attempts)
        for name, column in self.columns.items():
            column.append(values[name])

    def __len__(self) -> int:
        return len(self.columns["kept"])

    def table(self, first: int = 0, last: int | None = None) -> dict[str, Floats]:
        """Columns as arrays, rows first to last."""
        return {name: np.frombuffer(column, dtype=np.float64)[first:last] for name, column in self.columns.items()}


def layers(attempts: Iterable[BookedAttempt]) -> dict[str, float]:
    """Dollars of a request by layer."""
    sums = dict.fromkeys(LAYERS, 0.0)
    names = {"router": "router", "draft": "drafts", "frontier": "frontier"}
    for attempt in attempts:
        sums[names.get(attempt.kind, "other")] += attempt.cost_usd or 0.0
    return sums


class Pilot(Record):
    """The cost model fitted on one ledger's traffic."""

    rows: int
    rates: EngineRates | None = Field(description="None: too few drafts")
    usd_per_engine_s: float | None
    router_usd: float = Field(description="mean per request")
    other_usd: float = Field(description="mean per request: samples, judges, shadow answers")
    uncached_ratio: float = Field(description="of the drafts' input tokens")
    draft_length_ratio: float = Field(description="draft's output tokens over the served answer's")
    kept_ratio: float
    drafted: dict[str, float] = Field(description="share of requests by category, '' for all")
    frontier: dict[str, float] = Field(
        description="booked frontier dollars over what all answers would have cost there, by category, '' for all"
    )


def learn(table: dict[str, Floats], categories: dict[str, int], source: str) -> Pilot:
    """Fit on some rows, at least one."""
    drafted = table["drafted"] > 0
    rates = fit_rates(
        table["draft_uncached"][drafted].tolist(),
        table["draft_output"][drafted].tolist(),
        table["draft_s"][drafted].tolist(),
        source,
    )
    return Pilot(
        rows=len(drafted),
        rates=rates,
        usd_per_engine_s=_ratio(table["drafts"].sum(), table["draft_s"].sum()),
        router_usd=float(table["router"].mean()),
        other_usd=float(table["other"].mean()),
        uncached_ratio=_ratio(table["draft_uncached"].sum(), table["draft_input"].sum()) or 0.0,
        draft_length_ratio=_ratio(table["draft_output"].sum(), table["output_tokens"][drafted].sum()) or 0.0,
        kept_ratio=float(table["kept"].mean()),
        drafted=_shares(table["drafted"], np.ones(len(drafted)), table["category"], categories),
        # Of dollars, not of requests: what is sent up is seldom as long as what is kept.
        frontier=_shares(table["frontier"], table["baseline_usd"], table["category"], categories),
    )


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None


def _shares(part: Floats, whole: Floats, category: Floats, categories: dict[str, int]) -> dict[str, float]:
    """Sum over sum by category, '' for all."""
    found = {"": _ratio(part.sum(), whole.sum()) or 0.0}
    few = 20 * float(whole.mean())  # twenty requests of the whole's share keep a rare category from promising 0 or 1
    for name, number in categories.items():
        here = category == number
        found[name] = _ratio(part[here].sum() + few * found[""], whole[here].sum() + few) or 0.0
    return found


class Layer(Record):
    """One line of the comparison."""

    predicted_usd: float
    measured_usd: float


class Prediction(Record):
    """The bill of rows that the pilot has not seen."""

    rows: int
    left_out: int
    layers: dict[str, Layer]
    predicted_usd: float
    measured_usd: float
    error_ratio: float | None = Field(description="predicted over measured, less 1")
    error_low: float | None = Field(None, description="95 % bootstrap interval of error_ratio: what chance alone does")
    error_high: float | None = None
    predicted_interval_usd: tuple[float, float] | None = Field(None, description="95 %, of pilot and rows drawn again")
    measured_interval_usd: tuple[float, float] | None = Field(None, description="95 %, of the rows drawn again")


def predict(pilot: Pilot, table: dict[str, Floats], categories: dict[str, int], left_out: int = 0) -> Prediction:
    """Predict from category, lengths and the frontier's list price alone. Compare with the recorded dollars."""
    names = {number: name for name, number in categories.items()}
    drafted = _by_category(pilot.drafted, table["category"], names)
    sent_up = _by_category(pilot.frontier, table["category"], names)
    predicted = {
        "router": pilot.router_usd * len(drafted),
        "other": pilot.other_usd * len(drafted),
        "frontier": float((sent_up * table["baseline_usd"]).sum()),
        "drafts": 0.0,
    }
    if pilot.rates is not None and pilot.usd_per_engine_s is not None:
        busy_s = pilot.rates.busy_s(
            float((drafted * table["input_tokens"]).sum()) * pilot.uncached_ratio,
            float((drafted * table["output_tokens"]).sum()) * pilot.draft_length_ratio,
            float(drafted.sum()),
        )
        predicted["drafts"] = busy_s * pilot.usd_per_engine_s
    measured = {name: float(table[name].sum()) for name in LAYERS}
    predicted_usd, measured_usd = sum(predicted.values()), sum(measured.values())
    return Prediction(
        rows=len(drafted),
        left_out=left_out,
        layers={n: Layer(predicted_usd=predicted[n], measured_usd=measured[n]) for n in LAYERS},
        predicted_usd=predicted_usd,
        measured_usd=measured_usd,
        error_ratio=predicted_usd / measured_usd - 1 if measured_usd > 0 else None,
    )


def _by_category(shares: dict[str, float], category: Floats, names: dict[int, str]) -> Floats:
    by_number = np.array([shares.get(names[number], shares[""]) for number in range(len(names))])
    return by_number[category.astype(np.int64)]


def read_ledger(path: Path) -> Booked:
    """The requests of a ledger export. Bad lines are counted here and named by the audit's own pass."""
    booked, bad = Booked(), BadRows()
    with open_log(path) as (lines, _):
        for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE_BYTES), b""), start=1):
            if not line.isspace():
                try:
                    booked.add(decode_row(line))
                except ValueError as error:
                    bad.add(number, error)
    return booked


def pilot_of(path: Path) -> Pilot:
    """The cost model fitted on a pilot's ledger. Raises AuditError when it is too small."""
    booked = read_ledger(path)
    if len(booked) < FEWEST_ROWS:
        raise AuditError(f"{path}: {len(booked)} finished requests with known cost, but a pilot needs {FEWEST_ROWS}")
    return learn(booked.table(), booked.categories, f"pilot {path.name}")


def check(path: Path, pilot: Pilot | None) -> Prediction | None:
    """Predict a ledger's bill: the whole from another ledger's pilot, or its later half from its earlier one.

    None when it is too small to be split.
    """
    booked = read_ledger(path)
    if len(booked) < (FEWEST_ROWS if pilot is None else 1):
        return None
    half = len(booked) // 2 if pilot is None else 0
    earlier, later = booked.table(last=half), booked.table(first=half)
    taught = pilot or learn(earlier, booked.categories, "earlier half")
    found = predict(taught, later, booked.categories, booked.left_out)
    # A given pilot stays as it is. Else both halves are drawn again, each on its own.
    parts = [later] if pilot is not None else [earlier, later]
    drawn = []
    for rows in drawn_rows([len(part["kept"]) for part in parts], RESAMPLES):
        *before, after = (_at(part, own) for part, own in zip(parts, rows, strict=True))
        again = learn(before[0], booked.categories, "resample") if before else taught
        one = predict(again, after, booked.categories)
        if one.error_ratio is not None:
            drawn.append((one.error_ratio, one.predicted_usd, one.measured_usd))
    if not drawn:
        return found
    error, predicted, measured = (percentile_interval(None, values) for values in zip(*drawn, strict=True))
    return found.model_copy(
        update={
            "error_low": error.low,
            "error_high": error.high,
            "predicted_interval_usd": (predicted.low, predicted.high),
            "measured_interval_usd": (measured.low, measured.high),
        }
    )


def _at(table: dict[str, Floats], rows: Rows) -> dict[str, Floats]:
    return {name: column[rows] for name, column in table.items()}


def share_of(pilot: Pilot, target: float) -> Tier1Share:
    """The share that the pilot kept."""
    source = f"the pilot's {pilot.rows:,} requests at its own thresholds (whether they keep {target:.2f} is not said)"
    return observed_share(round(pilot.kept_ratio * pilot.rows), pilot.rows, source)
