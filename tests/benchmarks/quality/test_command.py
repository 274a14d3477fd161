"""The quality benchmark end to end on small pairs: every baseline, ours, the promise, one JSON document last."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.quality.baselines import BASELINES
from benchmarks.quality.command import part
from routing.learning.labels import Pair, question_key
from tests.models.graded import graded


def save(path: Path, pairs: list[Pair]) -> str:
    path.write_text("".join(pair.model_dump_json() + "\n" for pair in pairs))
    return str(path)


def test_table_has_every_baseline_and_ours_and_ends_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = save(tmp_path / "own.jsonl", graded(240))
    arguments = ["--train", own, "--test", own, "--gate", "--resamples", "30", "--plot", str(tmp_path / "plots")]
    assert main(["quality", *arguments]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {row["router"]: row for row in report["rows"]}
    assert set(BASELINES) | {"agreement of 1", "agreement of 3", "tierwise", "tierwise+gate"} <= set(rows)
    keys = {"test", "router", "apgr", "cpt_50", "cpt_80", "f95", "f98", "auroc_bad_draft", "ece"}
    assert all(keys <= set(row) for row in rows.values())
    assert rows["random"]["apgr"] == pytest.approx(0.5)
    assert rows["random"]["ece"] is None
    assert rows["tierwise+gate"]["apgr"] > rows["tierwise"]["apgr"] > 0.5
    assert rows["oracle router"]["apgr"] >= rows["tierwise+gate"]["apgr"]
    assert {p["category"] for p in report["promise"]} == {"chat", "law", "sums"}
    assert all(0 <= p["kept_ratio"] <= 1 for p in report["promise"])
    assert len(list((tmp_path / "plots").glob("*.png"))) == 2


def test_learning_curve_starts_with_no_own_label(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = save(tmp_path / "own.jsonl", graded(100, drafts=False))
    others = [p.model_copy(update={"category": "other"}) for p in graded(60, seed=3, drafts=False)]
    other = save(tmp_path / "other.jsonl", others)
    assert main(["quality", "--train", own, other, "--test", own, "--learning-curve", "--resamples", "0"]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert "tierwise, 0 own labels" in {row["router"] for row in report["rows"]}


def test_no_training_row_of_any_source_asks_a_test_question(tmp_path: Path) -> None:
    own = [Path("own.jsonl").resolve(), Path("other.jsonl").resolve()]

    class Args:
        train = own
        test = own[0]
        test_ratio = 0.4

    files = {own[0]: graded(100), own[1]: graded(50)}  # the second file repeats questions of the first
    split = part(Args(), files, seed=1)  # type: ignore[arg-type]
    asked = {question_key(p.prompt) for p in split.test}
    assert asked
    assert not asked & {question_key(p.prompt) for p in split.train}
    assert len(split.train) + split.n_dropped == 150
