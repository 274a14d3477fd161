"""The report as one HTML page that loads nothing: no script, no font and no image."""

from collections.abc import Iterable, Sequence
from html import escape

from serving.audit.forecast.break_even import BreakEven
from serving.audit.formats.call import NO_TENANT
from serving.audit.plots import figures
from serving.audit.report import NOT_NAMED, Report, Row
from serving.audit.table import percent, signed, usd

STYLE = """
:root { color-scheme: light dark; --text: #1c1f24; --page: #fff; --soft: #667; --line: #d8dbe2; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e8ec; --page: #16181d; --soft: #9aa3b2; --line: #343a46; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
p.lead { font-size: 1.1rem; } .soft { color: var(--soft); }
div.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
figure { margin: 1rem 0; background: #fff; border-radius: 6px; padding: .5rem; overflow-x: auto; }
figure svg { max-width: 100%; height: auto; }
"""


def page(report: Report) -> str:
    """The page."""
    body = "\n".join(_body(report))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Tierwise audit of {escape(report.log)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _body(report: Report) -> Iterable[str]:
    outlook, totals, drawn = report.outlook, report.totals, figures(report)
    yield f"<h1>What would tiers save? Audit of {escape(report.log)}</h1>"
    yield f'<p class="lead">{escape(_answer(report))}</p>'
    yield (
        f'<p class="soft">{totals.requests:,} requests, {totals.input_tokens:,} input and {totals.output_tokens:,} '
        f"output tokens, {totals.failed:,} failed, {report.bad_rows['count']:,} lines that could not be read.</p>"
    )
    yield "<h2>Today and in tiers</h2>"
    yield _table(
        ["case", "on tier 1", "replicas", "busy", "today", "in tiers", "rented by the hour", "saved", "pays from"],
        (
            [
                found.name,
                percent(found.kept_ratio),
                "-" if found.fleet is None else str(found.fleet.peak_replicas),
                percent(found.utilisation_ratio),
                usd(outlook.now_usd),
                usd(found.total_usd),
                usd(found.scaled_total_usd),
                signed(found.saved_ratio),
                "-" if found.cost is None else _even(found.break_even),
            ]
            for found in outlook.scenarios
        ),
    )
    yield (
        f'<p class="soft">At {report.assumptions.target:.2f} of the frontier&#39;s quality. Shares from '
        f"{escape(outlook.share.source)}. Volumes are requests a month, from which on it never loses again.</p>"
    )
    yield _figure(drawn, "Today and in tiers")
    yield _figure(drawn, "Saving by volume")
    if outlook.sensitivity:
        yield "<h2>What moves the saving</h2>"
        yield _figure(drawn, "What moves the saving")
        yield _table(
            ["changed", "on tier 1", "saved", "pays from"],
            (
                [row.changed, percent(row.kept_ratio), signed(row.saved_ratio), _even(row.break_even_requests)]
                for row in outlook.sensitivity
            ),
        )
    yield "<h2>Where the money goes</h2>"
    yield _figure(drawn, "Spend by model")
    yield _bill("model", report.models)
    yield _bill("category", report.categories)
    if report.sampled_categories:
        yield _table(
            ["kind of work", "requests", "dollars"],
            (
                [
                    kind.name,
                    f"{percent(kind.requests_ratio)} ± {percent(kind.plus_minus)}",
                    "-" if kind.usd_ratio is None else percent(kind.usd_ratio),
                ]
                for kind in report.sampled_categories
            ),
        )
    yield _bill("tenant", report.tenants)
    yield "<h2>When it comes</h2>"
    yield _figure(drawn, "Arrivals and replicas")
    yield "<h2>What repeats</h2>"
    yield _figure(drawn, "Prefix cache")
    yield _table(
        ["tenant", "input tokens", "found in one replica's cache"],
        (
            [row.tenant, f"{row.input_tokens:,}", percent(row.hit_ratio)]
            for row in report.tenant_reuse
            if len(report.tenant_reuse) > 1
        ),
    )
    yield from _checks(report)
    yield "<h2>What is not known</h2><ul>"
    yield from (f"<li>{escape(sentence)}</li>" for sentence in outlook.unknown)
    yield "</ul>"


def _checks(report: Report) -> Iterable[str]:
    if (checked := report.prediction) is not None:
        yield f"<h2>Forecast against the ledger, {checked.rows:,} requests</h2>"
        yield _table(
            ["layer", "predicted", "booked"],
            [[name, usd(layer.predicted_usd), usd(layer.measured_usd)] for name, layer in checked.layers.items()]
            + [[f"all ({signed(checked.error_ratio)})", usd(checked.predicted_usd), usd(checked.measured_usd)]],
        )
    yield "<h2>Prices and assumptions</h2>"
    yield _table(
        ["model", "input, $ per million", "output", "from"],
        (
            [row.model, usd(row.input_usd), usd(row.output_usd), row.source or "unknown: left out of every dollar here"]
            for row in report.prices
        ),
    )
    assumed = report.assumptions.model_dump(exclude={"rates"}) | {
        f"tier 1 {name}": value for name, value in report.assumptions.rates.model_dump().items()
    }
    yield _table(["assumption", "value"], ([name, str(value)] for name, value in assumed.items()))
    if report.bad_rows["first"]:
        yield "<h2>Lines that could not be read</h2>"
        yield _table(
            ["line", "field", "problem"],
            ([str(row["line"]), str(row["field"]), str(row["problem"])] for row in report.bad_rows["first"]),
        )


def _answer(report: Report) -> str:
    outlook = report.outlook
    low, expected, high = outlook.scenarios
    if outlook.now_usd is None or expected.saved_ratio is None:
        return "What this traffic costs is not known, so neither is a saving: no price fits its models."
    return (
        f"This traffic costs {usd(outlook.now_usd)}. In tiers it would cost {usd(expected.total_usd)} "
        f"({signed(expected.saved_ratio)} saved; between {signed(low.saved_ratio)} and {signed(high.saved_ratio)}), "
        f"and tiers pay from {_even(expected.break_even)} requests a month."
    )


def _even(volume: BreakEven | int | None) -> str:
    requests = volume.for_good_requests if isinstance(volume, BreakEven) else volume
    return "never" if requests is None else f"{requests:,}"


def _figure(drawn: dict[str, str], title: str) -> str:
    return f'<figure role="img" aria-label="{escape(title)}">{drawn[title]}</figure>' if title in drawn else ""


def _bill(name: str, rows: Sequence[Row]) -> str:
    if len(rows) == 1 and rows[0].name in (NO_TENANT, NOT_NAMED):
        return ""
    return _table(
        [name, "requests", "input tokens", "output tokens", "cached", "dollars"],
        (
            [
                row.name,
                f"{row.requests:,}",
                f"{row.input_tokens:,}",
                f"{row.output_tokens:,}",
                percent(row.cached_tokens / row.input_tokens) if row.input_tokens else "-",
                usd(row.usd) + (" and unknown prices" if row.usd is not None and row.unpriced_calls else ""),
            ]
            for row in rows
        ),
    )


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    cells = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    if not cells:
        return ""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    return f'<div class="wide"><table><thead><tr>{titles}</tr></thead><tbody>{cells}</tbody></table></div>'
