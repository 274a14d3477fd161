"""The report's figures as inline SVG that loads nothing from elsewhere."""

import io
import re
from typing import Any

import matplotlib as mpl
import numpy as np

from serving.audit.forecast.outlook import plan_of
from serving.audit.report import Report

BLUE, ORANGE, GREEN, RED, GREY = "#3b76af", "#e08a2e", "#4a9a5b", "#c0504d", "#8c8c8c"
LAYER_COLOURS = {"router": GREY, "drafts": BLUE, "gate waste": RED, "frontier": ORANGE, "shadow": GREEN}
_FOREIGN = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)


def figures(report: Report) -> dict[str, str]:
    """Title -> SVG. Figures whose numbers are unknown are left out."""
    mpl.use("Agg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "tierwise", "font.size": 9, "axes.spines.top": False})
    mpl.rcParams.update({"axes.spines.right": False, "font.family": "sans-serif"})
    drawn = {
        "Spend by model": _spend(report),
        "Arrivals and replicas": _arrivals(report),
        "Prefix cache": _reuse(report),
        "Today and in tiers": _bills(report),
        "Saving by volume": _volume(report),
        "What moves the saving": _sensitivity(report),
    }
    return {title: svg for title, svg in drawn.items() if svg is not None}


def _figure(height: float = 2.8) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt  # noqa: PLC0415 - after the backend is chosen

    figure, axes = plt.subplots(figsize=(7.2, height), layout="constrained")
    return figure, axes


def _svg(figure: Any) -> str:
    import matplotlib.pyplot as plt  # noqa: PLC0415 - likewise

    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = out.getvalue()
    return _FOREIGN.sub("", text[text.index("<svg") :])


def _spend(report: Report) -> str | None:
    rows = [row for row in report.models if row.usd][:10]
    if not rows:
        return None
    figure, axes = _figure(0.8 + 0.32 * len(rows))
    axes.barh([row.name for row in rows][::-1], [row.usd for row in rows][::-1], color=BLUE)
    axes.set_xlabel("US dollars in this log")
    return _svg(figure)


def _arrivals(report: Report) -> str | None:
    if len(report.arrivals) < 2:
        return None
    figure, axes = _figure()
    at_h, counts = np.array([at for at, _ in report.arrivals]) / 3600, np.array([n for _, n in report.arrivals])
    # A line of more points than pixels only makes the page heavy. The mean and the peak of each pixel show as much.
    step = max(1, len(at_h) // 700)
    cut = len(at_h) // step * step
    rates = counts[:cut].reshape(-1, step) / report.window_s
    axes.fill_between(at_h[:cut:step], rates.max(axis=1), color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(at_h[:cut:step], rates.mean(axis=1), color=BLUE, linewidth=1, label="requests/s")
    axes.set_xlabel("hours")
    axes.set_ylabel("requests/s", color=BLUE)
    fleet = next((found.fleet for found in report.outlook.scenarios if found.name == "expected"), None)
    if fleet is not None:
        other = axes.twinx()
        needed = np.array(fleet.by_window)[:cut]
        shown = needed[:, 1].reshape(-1, step).max(axis=1)
        other.step(needed[::step, 0] / 3600, shown, color=ORANGE, where="post", linewidth=1)
        other.set_ylim(0, fleet.peak_replicas * 1.15)
        other.set_ylabel("replicas needed (expected case)", color=ORANGE)
    return _svg(figure)


def _reuse(report: Report) -> str | None:
    if not report.caches:
        return None
    figure, axes = _figure(0.8 + 0.35 * len(report.caches))
    names = [
        "unbounded" if c.capacity_tokens is None else f"{c.capacity_tokens / 1e6:g}M tokens" for c in report.caches
    ]
    axes.barh(names[::-1], [100 * c.hit_ratio for c in report.caches][::-1], color=GREEN)
    if report.measured_cached_ratio is not None:
        axes.axvline(
            100 * report.measured_cached_ratio, color=GREY, linestyle="--", label="provider's cache, as billed"
        )
        axes.legend(fontsize=8)
    axes.set_xlabel("input tokens found in the cache, %")
    return _svg(figure)


def _bills(report: Report) -> str | None:
    outlook = report.outlook
    if outlook.now_usd is None:
        return None
    figure, axes = _figure(2.4)
    axes.barh(["today"], [outlook.now_usd], color=ORANGE)
    seen: set[str] = set()
    for found in outlook.scenarios:
        cost = found.cost
        if cost is None:
            continue
        left = 0.0
        parts = (cost.router_usd, cost.drafts_usd, cost.gate_waste_usd, cost.frontier_usd, cost.shadow_usd)
        for (name, colour), usd in zip(LAYER_COLOURS.items(), parts, strict=True):
            label = f"tier 1: {found.name} ({found.kept_ratio:.0%})"
            axes.barh([label], [usd], left=left, color=colour, label=None if name in seen else name)
            seen.add(name)
            left += usd
    axes.invert_yaxis()
    axes.set_xlabel("US dollars for the traffic of this log, own replicas rented all the time")
    axes.legend(fontsize=8, ncols=5, loc="upper center", bbox_to_anchor=(0.5, -0.28), frameon=False)
    return _svg(figure)


def _volume(report: Report) -> str | None:
    outlook, assumed = report.outlook, report.assumptions
    if outlook.traffic is None:
        return None
    figure, axes = _figure()
    month = outlook.traffic.requests * (outlook.month_factor or 1.0)
    evens = [found.break_even.for_good_requests for found in outlook.scenarios if found.break_even is not None]
    low, high = min([month, *evens]) / 10, max([month, *evens]) * 10
    volumes = np.geomspace(max(low, 1), high, 300)
    for found, colour in zip(outlook.scenarios, (RED, BLUE, GREEN), strict=True):
        if found.cost is None:
            continue
        plan = plan_of(outlook.traffic, found.cost, found.utilisation_ratio, assumed)
        saved = [100 * plan.saved_usd(v) / (v * plan.now_usd) if plan.now_usd else 0.0 for v in volumes]
        axes.plot(
            volumes, np.clip(saved, -120, 100), color=colour, label=f"{found.name} ({found.kept_ratio:.0%} on tier 1)"
        )
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.axvline(month, color=GREY, linestyle="--", label="this log's pace" if outlook.month_factor else "this log")
    axes.set_xscale("log")
    axes.set_ylim(-125, 105)
    axes.set_xlabel("requests a month")
    axes.set_ylabel("saved, % of today's bill")
    axes.legend(fontsize=8)
    return _svg(figure)


def _sensitivity(report: Report) -> str | None:
    rows = [row for row in report.outlook.sensitivity if row.saved_ratio is not None]
    if len(rows) < 2 or rows[0].saved_ratio is None:
        return None
    figure, axes = _figure(0.8 + 0.28 * len(rows))
    base = 100 * rows[0].saved_ratio
    values = [100 * (row.saved_ratio or 0.0) for row in rows[1:]]
    names = [row.changed for row in rows[1:]]
    axes.barh(
        names[::-1],
        [v - base for v in values][::-1],
        left=base,
        color=[GREEN if v >= base else RED for v in values[::-1]],
    )
    axes.axvline(base, color=GREY)
    axes.set_xlabel(f"saved, % of today's bill (as assumed: {base:.1f})")
    return _svg(figure)
