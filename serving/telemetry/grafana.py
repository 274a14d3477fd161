"""Makes the Grafana dashboard from the metrics themselves: one panel each, so none is forgotten or misspelled.

`python -m serving grafana` prints it. deploy/grafana/tierwise.json is its output.
"""

import json
from typing import Any, NamedTuple

from prometheus_client.core import Metric as MetricFamily
from prometheus_client.metrics import MetricWrapperBase

from serving.ledger.writer import LedgerCounts
from serving.replicas.config import ReplicaRoutingConfig
from serving.replicas.tracker import ReplicaTracker
from serving.telemetry.metrics import Telemetry

PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 8, 7, 3
QUANTILES = (0.5, 0.9, 0.99)
WINDOW = "$__rate_interval"
SOURCE = {"type": "prometheus", "uid": "${source}"}
# What an operator reads first. Each panel is computed from several metrics.
OVERVIEW: tuple[tuple[str, str, str], ...] = (
    ("Requests per second", "sum by (tier) (rate(tierwise_requests_total[{w}]))", "reqps"),
    (
        "Escalation rate",
        'sum(rate(tierwise_verdicts_total{{accepted="false"}}[{w}])) / sum(rate(tierwise_verdicts_total[{w}]))',
        "percentunit",
    ),
    (
        "Saved against the frontier alone, $ per hour",
        "3600 * (sum(rate(tierwise_baseline_cost_usd_total[{w}])) - sum(rate(tierwise_cost_usd_total[{w}])))",
        "currencyUSD",
    ),
    (
        "TTFT p90, s",
        "histogram_quantile(0.9, sum by (le, tier) (rate(tierwise_ttft_seconds_bucket[{w}])))",
        "s",
    ),
    (
        "Failed requests",
        "sum(rate(tierwise_request_errors_total[{w}])) / sum(rate(tierwise_requests_total[{w}]))",
        "percentunit",
    ),
    (
        "Prefix cache hits of drafts",
        'sum(rate(tierwise_tokens_total{{kind="draft",direction="cached"}}[{w}]))'
        ' / sum(rate(tierwise_tokens_total{{kind="draft",direction="input"}}[{w}]))',
        "percentunit",
    ),
)


class Metric(NamedTuple):
    """One metric as it is scraped. name: as in a query, without _bucket."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str


def metrics() -> list[Metric]:
    """Every metric of the gateway, by name."""
    found = []
    telemetry = Telemetry("hash")
    telemetry.watch(ReplicaTracker(ReplicaRoutingConfig()))
    for collector in telemetry.registry._collector_to_names:
        if isinstance(collector, MetricWrapperBase):
            found += [
                Metric(query_name(f), f.type, tuple(collector._labelnames), f.documentation)
                for f in collector.describe()
            ]
        else:
            for family in collector.collect():
                labels = sorted({label for sample in family.samples for label in sample.labels})
                found.append(Metric(query_name(family), family.type, tuple(labels), family.documentation))
    ledger = ("queued", "spool_bytes", "up", *LedgerCounts.__dataclass_fields__)
    found += [Metric(f"tierwise_ledger_{name}", "gauge", (), f"Ledger: {name.replace('_', ' ')}") for name in ledger]
    return sorted({metric.name: metric for metric in found}.values())


def query_name(family: MetricFamily) -> str:
    """A family's name as it stands in queries."""
    return f"{family.name}_total" if family.type == "counter" else str(family.name)


def queries(metric: Metric) -> list[tuple[str, str]]:
    """(expression, legend) of a metric's panel: rates of counters, quantiles of histograms, values of gauges."""
    by = f" by ({', '.join(metric.labels)})" if metric.labels else ""
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    if metric.kind == "counter":
        return [(f"sum{by} (rate({metric.name}[{WINDOW}]))", legend)]
    if metric.kind == "histogram":
        group = ", ".join(("le", *metric.labels))
        return [
            (
                f"histogram_quantile({q}, sum by ({group}) (rate({metric.name}_bucket[{WINDOW}])))",
                f"p{q * 100:g} {legend}".strip(),
            )
            for q in QUANTILES
        ]
    # A scrape reaches one of several gateway processes, so each process is seen only now and then.
    return [(f"sum{by} (max_over_time({metric.name}[5m]))", legend)]


def dashboard() -> dict[str, Any]:
    """Grafana's JSON model."""
    panels: list[dict[str, Any]] = []
    for title, expression, unit in OVERVIEW:
        panels.append(panel(len(panels), title, [(expression.format(w=WINDOW), "")], unit))
    for metric in metrics():
        panels.append(panel(len(panels), f"{metric.name}: {metric.help}", queries(metric), "short"))
    return {
        "uid": "tierwise",
        "title": "Tierwise",
        "tags": ["tierwise"],
        "schemaVersion": 41,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [{"name": "source", "type": "datasource", "query": "prometheus"}]},
        "panels": panels,
    }


def panel(number: int, title: str, expressions: list[tuple[str, str]], unit: str) -> dict[str, Any]:
    """One time series, placed by its number."""
    row, column = divmod(number, COLUMNS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": unit}, "overrides": []},
        "gridPos": {"x": column * PANEL_WIDTH, "y": row * PANEL_HEIGHT, "w": PANEL_WIDTH, "h": PANEL_HEIGHT},
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expression, "legendFormat": legend or "__auto"}
            for i, (expression, legend) in enumerate(expressions)
        ],
    }


def dashboard_json() -> str:
    """The file's text."""
    return json.dumps(dashboard(), indent=1) + "\n"
