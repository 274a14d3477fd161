"""Thresholds come from labels that training did not see, and the report says what cannot be promised."""

import json
from pathlib import Path

import pytest

from models.__main__ import main
from routing.heads.evidence import HeadKind
from routing.learning.labels import Pair
from serving.artefacts.heads import read_panel
from tests.models.graded import graded


def save(path: Path, pairs: list[Pair]) -> str:
    path.write_text("".join(pair.model_dump_json() + "\n" for pair in pairs))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both heads trained on 300 pairs by the commands."""
    folder = tmp_path_factory.mktemp("trained")
    pairs = save(folder / "train.jsonl", graded(300))
    for command in ("train-router", "train-gate"):
        assert main([command, "--pairs", pairs, "--out", str(folder / "artefact")]) == 0
    return folder


def calibrate(folder: Path, pairs: str, capsys: pytest.CaptureFixture[str], target: str = "0.8") -> dict[str, object]:
    capsys.readouterr()
    arguments = ["--artefact", str(folder / "artefact"), "--kind", "gate", "--pairs", pairs, "--quality-target", target]
    assert main(["calibrate", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def test_labels_that_were_trained_on_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artefact = str(folder / "artefact")
    assert main(["calibrate", "--artefact", artefact, "--pairs", str(folder / "train.jsonl")]) == 1
    assert "trained on" in capsys.readouterr().err


def test_what_training_held_back_both_fits_and_chooses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the same seed in both commands, the held-back questions still part in two."""
    pairs, artefact = save(tmp_path / "pairs.jsonl", graded(500)), str(tmp_path / "artefact")
    assert main(["train-router", "--pairs", pairs, "--out", artefact, "--holdout-ratio", "0.4"]) == 0
    capsys.readouterr()
    assert main(["calibrate", "--artefact", artefact, "--pairs", pairs]) == 0
    report = json.loads(capsys.readouterr().out)
    (chosen,) = report["thresholds"]
    n_choosing = sum(threshold["n_labels"] for threshold in chosen["by_category"].values())
    assert 0.3 * report["n_pairs"] < n_choosing < 0.7 * report["n_pairs"]


def test_thresholds_are_written_for_the_walk_up_to_each_signal(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = calibrate(folder, save(folder / "fresh.jsonl", [*graded(600, seed=5), *graded(9)]), capsys)
    assert (report["n_pairs"], report["n_left_out"]) == (600, 9)
    panel = read_panel(folder / "artefact", HeadKind.GATE)
    sequences = panel.sequences(0.8)
    assert [[look.reads.n_answers for look in s.looks] for s in sequences] == [[0], [0, 1], [0, 1, 3]]
    chat = sequences[-1].by_category["chat"]
    assert chat.threshold is not None
    assert chat.bad_shown_bound <= 0.2
    assert "poetry" not in sequences[-1].by_category
    assert panel.sequences(0.9) == ()


def test_too_few_labels_are_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = calibrate(folder, save(folder / "few.jsonl", graded(30, seed=6)), capsys, target="0.99")
    for chosen in report["thresholds"]:  # type: ignore[attr-defined]
        for threshold in chosen["by_category"].values():
            assert threshold["threshold"] is None
            assert threshold["more_labels_needed"] > 100


def test_report_says_what_tier1_is_worth_before_promising_a_saving(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = calibrate(folder, save(folder / "fresh2.jsonl", graded(600, seed=7)), capsys)
    share = report["share_of_frontier"]["0.8"]  # type: ignore[index]
    assert isinstance(share, dict)
    assert share["chat"]["tier1_share"] > 0.85 > share["law"]["tier1_share"]
    assert share["law"]["escalate_at_least"] < share["law"]["escalate_at_random"]


def test_holdout_leaves_labels_for_calibration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = save(tmp_path / "all.jsonl", graded(200))
    out = str(tmp_path / "artefact")
    assert main(["train-router", "--pairs", pairs, "--out", out, "--holdout-ratio", "0.4"]) == 0
    capsys.readouterr()
    assert main(["calibrate", "--artefact", out, "--pairs", pairs]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["n_pairs"] + report["n_left_out"] == 200
    assert 50 < report["n_pairs"] < 110


def test_missing_file_is_an_error_not_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train-router", "--pairs", str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "o")]) == 1
    assert "none.jsonl" in capsys.readouterr().err
