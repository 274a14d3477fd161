"""The report for a terminal: sections of plain text, the bill first."""

from collections.abc import Iterable, Sequence

from serving.audit.forecast.outlook import Scenario
from serving.audit.formats.call import NO_TENANT
from serving.audit.report import NOT_NAMED, Report, Row

SHOWN = 12


def lines(report: Report) -> Iterable[str]:
    """The whole report, line by line."""
    yield from _traffic(report)
    yield from _bills("spend by model", report.models)
    if any(row.name != NO_TENANT for row in report.tenants):
        yield from _bills("spend by tenant", report.tenants)
    if any(row.name != NOT_NAMED for row in report.categories):
        yield from _bills("spend by category, as named in the log", report.categories)
    if report.sampled_categories:
        yield f"\nkinds of work, {report.sample_size:,} requests looked at"
        for kind in report.sampled_categories:
            yield f"  {kind.name:<28}{percent(kind.requests_ratio):>8} ± {percent(kind.plus_minus)} of requests"
    yield from _reuse(report)
    yield from _outlook(report)
    if (checked := report.prediction) is not None:
        yield f"\nforecast checked on {checked.rows:,} booked requests (left out: {checked.left_out:,})"
        for name, layer in checked.layers.items():
            yield f"  {name:<12}predicted {usd(layer.predicted_usd):>12}   booked {usd(layer.measured_usd):>12}"
        wrong = "-" if checked.error_ratio is None else f"{checked.error_ratio:+.1%}"
        both = f"predicted {usd(checked.predicted_usd):>12}   booked {usd(checked.measured_usd):>12}"
        chance = f" (by chance {signed(checked.error_low)} to {signed(checked.error_high)})"
        yield f"  {'all':<12}{both}   {wrong}{'' if checked.error_low is None else chance}"
        if checked.predicted_interval_usd is not None and checked.measured_interval_usd is not None:
            predicted, booked = (
                "{} to {}".format(*map(usd, ends))
                for ends in (checked.predicted_interval_usd, checked.measured_interval_usd)
            )
            yield f"  {'95 %':<12}predicted {predicted}   booked {booked}"
    yield "\nnot known"
    for sentence in report.outlook.unknown:
        yield f"  - {sentence}"
    speed = report.speed
    yield (
        f"\naccounting {rate(speed.accounting_requests_per_s)} requests/s of one core, whole pass "
        f"{rate(speed.requests_per_s)}; peak memory {speed.peak_memory_bytes / 2**20:,.0f} MiB"
    )


def _traffic(report: Report) -> Iterable[str]:
    totals = report.totals
    yield f"audit of {report.log} ({report.format})"
    yield (
        f"{totals.requests:,} requests, {totals.calls:,} calls, {totals.failed:,} failed, "
        f"{report.bad_rows['count']:,} bad rows"
    )
    for row in report.bad_rows["first"][:5]:
        yield f"  bad row: line {row['line']}, field {row['field']}: {row['problem']}"
    yield f"{totals.input_tokens:,} input tokens, {totals.output_tokens:,} output tokens"
    if report.span_hours is not None and report.requests_per_s and report.peak_requests_per_s:
        yield (
            f"{report.span_hours:,.2f} hours, {report.requests_per_s:.2f} requests/s, "
            f"{report.peak_requests_per_s:.2f} in the busiest {report.window_s:.0f} s"
        )


def _bills(title: str, rows: Sequence[Row]) -> Iterable[str]:
    yield f"\n{title}"
    yield f"  {'':<36}{'requests':>12}{'input tokens':>16}{'output tokens':>16}{'cached':>9}{'usd':>14}"
    for row in rows[:SHOWN]:
        cached = percent(row.cached_tokens / row.input_tokens) if row.input_tokens else "-"
        unknown = (
            "" if row.usd is None or not row.unpriced_calls else f"  + {row.unpriced_calls:,} calls of unknown price"
        )
        yield (
            f"  {row.name[:35]:<36}{row.requests:>12,}{row.input_tokens:>16,}{row.output_tokens:>16,}{cached:>9}"
            f"{usd(row.usd):>14}{unknown}"
        )
    if len(rows) > SHOWN:
        yield f"  ... {len(rows) - SHOWN} more rows in the JSON document"


def _reuse(report: Report) -> Iterable[str]:
    if report.measured_cached_ratio is not None:
        yield f"\nthe provider found {percent(report.measured_cached_ratio)} of the input tokens in its cache"
    if not report.caches:
        return
    yield f"\nprefix reuse in blocks of {report.assumptions.block_size_tokens} tokens, tenants apart"
    for cache in report.caches:
        size = "unbounded" if cache.capacity_tokens is None else f"{cache.capacity_tokens:,} tokens"
        yield f"  cache of {size:<24}{percent(cache.hit_ratio):>8} of the input tokens found"
    for tenant in report.tenant_reuse[:5] if len(report.tenant_reuse) > 1 else ():
        yield f"  tenant {tenant.tenant[:26]:<26}{percent(tenant.hit_ratio):>8} in the first of these"


def _outlook(report: Report) -> Iterable[str]:
    outlook, assumed = report.outlook, report.assumptions
    yield f"\ntiered, at {assumed.target:.2f} of the frontier's quality; share on tier 1 from {outlook.share.source}"
    yield (
        f"  {'':<10}{'tier 1':>8}{'replicas':>10}{'GPU hours':>11}{'busy':>7}{'now':>13}{'tiered':>13}{'by hour':>13}"
        f"{'saved':>9}{'break-even requests/month':>28}"
    )
    for found in outlook.scenarios:
        yield _scenario(found, outlook.now_usd)
    if outlook.sensitivity:
        yield "\nthe expected case with one thing changed"
        for row in outlook.sensitivity:
            even = "never" if row.break_even_requests is None else f"{row.break_even_requests:,}"
            yield (
                f"  {row.changed:<28}tier 1 {percent(row.kept_ratio):>7}   saved {signed(row.saved_ratio):>8}   "
                f"pays for good from {even} requests a month"
            )


def _scenario(found: Scenario, now_usd: float | None) -> str:
    fleet = found.fleet
    replicas, hours = ("-", "-") if fleet is None else (str(fleet.peak_replicas), f"{fleet.fixed_hours:,.1f}")
    if found.cost is None:
        even = "-"
    elif found.break_even is None:
        even = "never"
    else:
        even = f"{found.break_even.first_requests:,} (for good {found.break_even.for_good_requests:,})"
    busy = percent(found.utilisation_ratio)
    return (
        f"  {found.name:<10}{percent(found.kept_ratio):>8}{replicas:>10}{hours:>11}{busy:>7}"
        f"{usd(now_usd):>13}{usd(found.total_usd):>13}{usd(found.scaled_total_usd):>13}{signed(found.saved_ratio):>9}"
        f"{even:>28}"
    )


def usd(value: float | None) -> str:
    """Dollars with as many digits as they need, a dash for unknown."""
    if value is None:
        return "-"
    return f"${value:,.2f}" if abs(value) >= 1 else f"${value:.6f}"


def percent(ratio: float) -> str:
    """A share, one decimal."""
    return f"{ratio:.1%}"


def signed(ratio: float | None) -> str:
    """A saving with its sign, a dash for unknown."""
    return "-" if ratio is None else f"{ratio:+.1%}"


def rate(value: float | None) -> str:
    """A whole number per second, a dash for unknown."""
    return "-" if value is None else f"{value:,.0f}"
