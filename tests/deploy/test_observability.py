"""Dashboard, alerts and scrape configuration ask for metrics that exist, and the runbook answers every alert."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.telemetry.grafana import dashboard, dashboard_json, metrics

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana" / "tierwise.json"
RUNBOOK = (ROOT / "deploy" / "RUNBOOK.md").read_text("utf-8")
ALERTS: list[dict[str, Any]] = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"][0]["rules"]
LABELS_OF_PROMETHEUS = {"le", "job", "instance", "replica"}


def asked_for(expression: str) -> set[str]:
    return {name.removesuffix("_bucket") for name in re.findall(r"tierwise_[a-z_0-9]+", expression)}


def expressions() -> list[str]:
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    return panels + [alert["expr"] for alert in ALERTS]


def test_dashboard_in_the_repository_is_what_the_command_prints() -> None:
    """After a change of the metrics: python -m serving grafana > deploy/grafana/tierwise.json."""
    assert GRAFANA.read_text("utf-8") == dashboard_json()
    json.loads(GRAFANA.read_text("utf-8"))


def test_every_metric_has_a_panel_and_every_query_a_metric() -> None:
    known = {metric.name for metric in metrics()}
    for expression in expressions():
        assert asked_for(expression) <= known, expression
    shown = set().union(*(asked_for(e) for e in expressions()))
    assert shown == known


def test_every_label_of_a_query_is_one_of_its_metric() -> None:
    labels = {metric.name: set(metric.labels) for metric in metrics()}
    for expression in expressions():
        allowed = set().union(*(labels[name] for name in asked_for(expression)), LABELS_OF_PROMETHEUS)
        used = set(re.findall(r"(\w+)=\"", expression))
        for group in re.findall(r"by \(([^)]*)\)", expression):
            used |= {label.strip() for label in group.split(",")}
        assert used <= allowed, expression


def test_metrics_are_those_that_the_document_lists() -> None:
    text = (ROOT / "deploy" / "README.md").read_text("utf-8").partition("## Metrics\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"^\| `(tierwise_\w+)`", text, re.MULTILINE)) == {metric.name for metric in metrics()}


def test_runbook_has_a_chapter_for_every_alert() -> None:
    chapters = set(re.findall(r"^## (.*)$", RUNBOOK, re.MULTILINE))
    assert {alert["annotations"]["runbook"] for alert in ALERTS} <= chapters
    assert {"p90 rises", "Cost rises", "Escalation rises", "A node dies"} <= chapters


def test_runbook_names_metrics_that_exist() -> None:
    assert asked_for(RUNBOOK) <= {metric.name for metric in metrics()}


@pytest.mark.parametrize(("check", "file"), [("rules", "alerts.yaml"), ("config", "prometheus.yaml")])
def test_promtool_takes_the_file(check: str, file: str) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool on this machine: apt-get install prometheus")
    syntax = ["--syntax-only"] if check == "config" else []  # the key's file is on the target machine alone
    done = subprocess.run(
        ["promtool", "check", check, *syntax, str(PROMETHEUS / file)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_queries_of_the_dashboard_are_promql(tmp_path: Path) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool on this machine: apt-get install prometheus")
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(expressions())
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
