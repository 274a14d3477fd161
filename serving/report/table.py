"""Renders a savings report as text for a terminal."""

from collections.abc import Mapping

from routing.cost.savings import Layer, Savings, SavingsReport
from routing.intervals import Interval

MAX_ROWS = 20
UNKNOWN = "not measured"


def render(report: SavingsReport) -> str:
    """Totals, layers, what was spent on what, and a row per tenant, category and day. Ends with footnotes."""
    total = report.total
    if not total.requests:
        return "no requests in this range\n"
    lines = [
        f"{total.requests} requests, {report.first_at} to {report.last_at}",
        f"cost ${total.cost_usd:.6f}, at the frontier with a warm cache ${total.baseline_usd:.6f}",
        f"saved {usd(total.saved_usd)} = {percent(total.saved_ratio)}; quality {quality(total)}",
        "",
        "where it comes from",
        *(f"  {layer:<14}{UNKNOWN if (i := total.layers[layer]) is None else usd(i)}" for layer in Layer),
        "",
        "what the money was spent on",
        f"  answers       ${total.answers_usd:.6f}",
        f"  router        ${total.router_usd:.6f}",
        f"  escalations   ${total.wasted_drafts_usd:.6f} for {total.escalated} rejected of {total.judged} judged drafts"
        + ("" if total.escalation_delay_s is None else f", {total.escalation_delay_s:.3f} s later each"),
        f"  judging       ${total.judging_usd:.6f}",
        f"  lost tries    ${total.lost_usd:.6f}",
        f"  shadow        ${total.shadow_usd:.6f}",
        "",
        *group_rows("tenant", report.by_tenant),
        *group_rows("category", report.by_category),
        *group_rows("day", report.by_day),
        *footnotes(report),
    ]
    return "\n".join(lines) + "\n"


def group_rows(name: str, groups: Mapping[str, Savings]) -> list[str]:
    """One line per group under a header. Groups beyond MAX_ROWS are only counted."""
    head = f"{name:<24}{'requests':>9}{'cost $':>13}{'frontier $':>13}{'saved $':>13}{'saved':>8}  quality"
    rows = [
        f"{printable(key):<24.24}{g.requests:>9}{g.cost_usd:>13.6f}{g.baseline_usd:>13.6f}"
        f"{g.saved_usd.value or 0.0:>13.6f}{percent(g.saved_ratio, bounds=False):>8}  {quality(g)}"
        for key, g in list(groups.items())[:MAX_ROWS]
    ]
    more = [f"… and {len(groups) - MAX_ROWS} more"] if len(groups) > MAX_ROWS else []
    return [head, *rows, *more, ""]


def footnotes(report: SavingsReport) -> list[str]:
    """What the figures are based on and what they leave out."""
    total, config = report.total, report.config
    notes = [f"intervals: {config.level:.0%}, {config.n_resamples} resamples of sessions"]
    notes += [
        f"prefill of {speed.tier} {printable(speed.model)}: {speed.s_per_token * 1e6:.1f} µs a token"
        f" ({speed.n_attempts} attempts)"
        for speed in report.prefill
    ]
    if not report.prefill:
        notes.append("prefix cache: no engine's prefill speed could be read out of these rows")
    if config.kernel_speedup is not None:
        notes.append(f"kernel speedup {config.kernel_speedup:g}, as given")
    if total.unserved:
        notes.append(f"{total.unserved} requests got no answer; what they cost counts as lost")
    if total.unpriced:
        notes.append(f"{total.unpriced} requests are in no sum of dollars: a price or a usage is not known")
    return notes


def usd(interval: Interval) -> str:
    """A signed amount with its interval."""
    if interval.value is None:
        return UNKNOWN
    bounds = "" if interval.low is None else f" ({interval.low:+.6f} to {interval.high:+.6f})"
    return f"{interval.value:+.6f} $" + bounds


def percent(interval: Interval, *, bounds: bool = True) -> str:
    """A signed share with its interval."""
    if interval.value is None:
        return "-"
    within = "" if interval.low is None or not bounds else f" ({interval.low:+.1%} to {interval.high:+.1%})"
    return f"{interval.value:+.1%}" + within


def quality(group: Savings) -> str:
    """Mean grade of what was served beside the frontier's on the same requests."""
    if group.quality is None or group.frontier_quality is None:
        return UNKNOWN
    return f"{group.quality.value:.3f} (frontier {group.frontier_quality.value:.3f}, {group.n_graded} graded)"


def printable(text: str) -> str:
    """Control characters never reach the terminal."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)
