"""The run command: card first, every section in its place, a result kept by commit and settings, JSON last."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.load.text_table import columns, number, spread
from benchmarks.run import card, section
from benchmarks.run.lab import Labs
from benchmarks.run.plan import Plan
from benchmarks.run.section import FULL, IN_LABS, QUICK, SECTIONS, load_section


def add_section(monkeypatch: pytest.MonkeyPatch, name: str, measure: Any) -> None:
    module = ModuleType(f"made_for_this_test_{name}")
    module.measure = measure  # type: ignore[attr-defined]
    module.table = lambda found: f"{len(found['rows'])} rows"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(section.SECTIONS, name, module.__name__)


@pytest.fixture
def two_sections(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def broken(plan: Plan, _: Labs) -> dict[str, Any]:
        raise SystemExit("no engine here")

    real = dict(SECTIONS)
    SECTIONS.clear()
    with monkeypatch.context() as patch:
        add_section(patch, "good", lambda plan, _: {"rows": [{"row": "a", "rounds": plan.rounds}]})
        add_section(patch, "broken", broken)
        yield
    SECTIONS.clear()
    SECTIONS.update(real)  # in their order


@pytest.mark.usefixtures("two_sections")
def test_a_section_that_fails_says_so_and_the_others_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--quick", "--sections", "good,broken", "--url", "http://stack.example:8000"]
    status = main([*command, "--out", str(tmp_path)])
    shown = capsys.readouterr().out
    document = json.loads(shown.splitlines()[-1])
    assert status == 1
    assert document["sections"]["good"]["rows"] == [{"row": "a", "rounds": 3}]
    assert document["failed"] == {"broken": "SystemExit: no engine here"}
    assert "not measured: SystemExit: no engine here" in shown
    assert shown.index("config_hash") < shown.index("1 rows")
    (kept,) = tmp_path.glob("*.json")
    assert json.loads(kept.read_text()) == document
    assert document["card"]["config_hash"] in kept.name
    assert str(card.commit()) in kept.name


@pytest.mark.usefixtures("two_sections")
def test_a_run_that_is_asked_to_end_stops_and_keeps_what_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped: list[str] = []

    def ended(plan: Plan, _: Labs) -> dict[str, Any]:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.sigtimedwait([], 30)  # the handler runs before this returns
            return {"rows": []}
        finally:
            stopped.append("what it started")

    add_section(monkeypatch, "ended", ended)
    add_section(monkeypatch, "never", lambda plan: {"rows": []})
    command = ["run", "--sections", "good,ended,never", "--url", "http://stack.example:8000", "--out", str(tmp_path)]
    assert main(command) == 1
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(document["sections"]) == ["good"]
    assert document["failed"] == {"ended": "interrupted"}
    assert stopped == ["what it started"]


@pytest.mark.usefixtures("two_sections")
def test_only_the_sections_asked_for_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "--sections", "good", "--url", "http://stack.example:8000", "--out", str(tmp_path)]
    assert main([*command, "--seed", "1"]) == 0
    one = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(one["sections"]) == ["good"]
    main([*command, "--seed", "1"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["card"]["config_hash"] == one["card"]["config_hash"]
    main([*command, "--seed", "2"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["card"]["config_hash"] != one["card"]["config_hash"]


def test_unknown_section_is_refused_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["run", "--sections", "engnie"])
    assert "no section 'engnie'" in capsys.readouterr().err


@pytest.mark.parametrize("name", SECTIONS)
def test_every_section_measures_and_prints(name: str) -> None:
    module = load_section(name)
    assert callable(module.measure)
    assert callable(module.table)


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert columns(("row", "n"), [("a", "1,000"), ("long", "2")]) == "row       n\na     1,000\nlong      2"


def test_not_measured_is_a_dash() -> None:
    assert (number(None), number(0.0123, 1, 1e-3)) == ("-", "12.3")
    assert spread({"x": 2.0, "x_spread": [1.0, 3.0]}, "x", 0) == "2 (1-3)"
    assert spread({"x": None, "x_spread": None}, "x") == "-"


def test_a_quick_run_and_a_full_one_measure_sections_that_there_are() -> None:
    assert set(QUICK) < set(FULL) < set(SECTIONS)
    assert set(IN_LABS) < set(SECTIONS)
    in_order = list(SECTIONS)
    assert [in_order.index(name) for name in FULL] == sorted(in_order.index(name) for name in FULL)
