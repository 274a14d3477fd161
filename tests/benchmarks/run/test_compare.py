"""Two kept results: what moved is what no round of the other run reached."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.run.compare import changes, missing


def result(tps: list[float], rounds: int = 3, row: str = "direct", config: str = "aaa") -> dict[str, Any]:
    median = sorted(tps)[len(tps) // 2]
    figures = {"row": row, "rounds": rounds, "tps": median, "tps_spread": [min(tps), max(tps)], "failed": 0}
    figures |= {"ttft_s": None, "ttft_s_spread": None}
    card = {"commit": "c", "config_hash": config, "at": "2026-11-22T00:00:00+00:00"}
    return {"card": card, "sections": {"engine": {"rows": [figures]}}}


def test_a_figure_within_the_other_runs_rounds_has_not_moved() -> None:
    (change,) = changes(result([10, 11, 12]), result([12, 13, 14]))
    assert (change.figure, change.moved, change.before, change.after) == ("tps", False, 11, 13)


def test_a_figure_beyond_every_round_has_moved() -> None:
    (change,) = changes(result([10, 11, 12]), result([13, 14, 15]))
    assert (change.moved, change.by_ratio) == (True, pytest.approx(14 / 11))
    assert change.chance == pytest.approx(0.1)


def test_rows_without_counterpart_are_named() -> None:
    one, other = result([1, 2, 3]), result([1, 2, 3], row="through")
    assert list(changes(one, other)) == []
    assert missing(one, other) == ["engine/direct"]
    assert missing(one, {"card": {}, "sections": {}}) == ["engine/direct"]


def test_command_says_what_moved_and_that_settings_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, document in zip(paths, (result([10, 11, 12]), result([13, 14, 15], config="bbb")), strict=True):
        path.write_text(json.dumps(document))
    assert main(["compare", *map(str, paths)]) == 0
    shown = capsys.readouterr().out
    assert "1 of 1 figures moved" in shown
    assert "different settings" in shown
    assert json.loads(shown.splitlines()[-1])["moved"][0]["row"] == "direct"


@pytest.mark.parametrize("content", ["", "[]", '{"rows": []}'])
def test_what_is_no_result_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    with pytest.raises(SystemExit, match=r"x\.json"):
        main(["compare", str(path), str(path)])
