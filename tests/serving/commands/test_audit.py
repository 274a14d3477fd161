"""The command: a JSON document as its last line, a page that needs nothing else, errors that say what to do."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from serving.__main__ import main
from serving.audit.page import page
from tests.serving.audit.audit_logs import chat, own_prices, report, write

ROOT = Path(__file__).parents[3]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    rows = [chat(n, user=f"Summarize <b>{n}</b>", tenant="<script>alert(1)</script>") for n in range(300)]
    return write(tmp_path / "log.jsonl", [*rows, "broken"])


def test_last_line_is_the_document_and_the_table_says_the_same(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", "--log", str(log), "--prices", str(own_prices(tmp_path)), "--quiet"]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    document = json.loads(last)
    assert document["totals"]["requests"] == 300
    text = "\n".join(table)
    assert "300 requests, 300 calls, 0 failed, 1 bad rows" in text
    assert "line 301" in text
    assert f"${document['outlook']['now_usd']:.6f}" in text
    for sentence in document["outlook"]["unknown"]:
        assert sentence in text


def test_unusable_log_is_one_line_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--log", str(tmp_path / "none.jsonl")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


class Outside(HTMLParser):
    """Collects what a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe", "img", "object", "embed", "base", "image"):
            self.found.append(tag)
        for name, value in attrs:
            own = (value or "").startswith("#")
            if name in ("src", "href", "xlink:href", "srcset", "action", "data") and not own:
                self.found.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.found.append(f"{tag} {name}")


def test_page_needs_nothing_from_elsewhere_and_runs_nothing(log: Path, tmp_path: Path) -> None:
    html = page(report(log, "--prices", own_prices(tmp_path)))
    parser = Outside()
    parser.feed(html)
    assert parser.found == []
    assert not re.search(r"url\(\s*['\"]?(?!#)|@import", html)
    assert html.count("<svg") == 6
    assert "<script>" not in html


def test_page_shows_the_numbers_of_the_document(log: Path, tmp_path: Path) -> None:
    found = report(log, "--prices", own_prices(tmp_path))
    html = page(found)
    assert f"${found.outlook.now_usd:.6f}" in html
    for scenario in found.outlook.scenarios:
        assert f"{scenario.kept_ratio:.1%}" in html
    for row in found.outlook.sensitivity:
        assert row.changed in html


def test_page_of_unknown_prices_says_so_instead_of_a_saving(log: Path) -> None:
    html = page(report(log, "--no-reuse"))
    assert "is not known, so neither is a saving" in html
    assert "$0" not in html.partition("<figure")[0]


def test_same_log_and_day_give_the_same_page(log: Path, tmp_path: Path) -> None:
    options = ("--prices", own_prices(tmp_path))
    assert page(report(log, *options)) == page(report(log, *options))


def test_generated_log_is_written_and_audited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "log.jsonl"
    assert main(["audit-log", "--requests", "200", "--unnamed", "--out", str(path)]) == 0
    assert main(["audit", "--log", str(path), "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["totals"]["requests"] == 200
    assert {kind["name"] for kind in document["sampled_categories"]} >= {"classify", "summarize", "code"}


@pytest.mark.slow
def test_artefact_says_what_its_router_would_keep(tmp_path: Path) -> None:
    """Trained and calibrated by our own commands; 'sum' questions are tier 1's, 'proof' questions are not."""
    pairs = tmp_path / "pairs.jsonl"
    rows = []
    for number in range(800):
        hard = number % 2
        text = (
            f"prove the theorem number {number} about rings" if hard else f"add the two numbers {number} and {number}"
        )
        rows.append(
            {
                "id": str(number), "category": "chat", "prompt": text,
                "tier1_quality": 0.0 if hard else 1.0, "frontier_quality": 1.0,
            }
        )  # fmt: skip
    write(pairs, rows)
    artefact = tmp_path / "artefact"
    for command in (
        ["train-router", "--pairs", pairs, "--out", artefact, "--holdout-ratio", "0.5"],
        ["calibrate", "--pairs", pairs, "--artefact", artefact, "--quality-target", "0.9"],
    ):
        subprocess.run([sys.executable, "-m", "models", *map(str, command)], cwd=ROOT, capture_output=True, check=True)
    asked = [chat(n, user=f"add the two numbers {n + 5000} and 7", category="chat") for n in range(60)]
    asked += [chat(60 + n, user=f"prove the theorem number {n + 5000} about rings", category="chat") for n in range(20)]
    found = report(write(tmp_path / "log.jsonl", asked), "--artefact", artefact)
    assert found.outlook.share.expected == pytest.approx(0.75, abs=0.05)
    assert "80 prompts" in found.outlook.share.source
