"""The learning curve: held-out labels alone judge, more of them help, and a size with too few for it is not made up."""

import json
from pathlib import Path

import numpy as np
import pytest

from models.__main__ import main
from models.heads.learning_curve import held_out_scores, row
from tests.models.graded import graded

PAIRS = graded(600, 3)


def test_labels_help_and_the_frontier_is_needed_less() -> None:
    few, many = (row(PAIRS, size, 0.9, seed=0) for size in (0, 400))
    assert many["auroc"]["value"] > few["auroc"]["value"] + 0.1
    assert many["apgr"]["value"] > few["apgr"]["value"]
    assert many["frontier_share"]["value"] <= few["frontier_share"]["value"]
    assert many["auroc"]["low"] <= many["auroc"]["value"] <= many["auroc"]["high"]


def test_without_a_label_the_router_models_word_decides() -> None:
    said = [pair.model_copy(update={"p_router": 0.25}) for pair in PAIRS[:2]] + [PAIRS[2]]
    assert np.array_equal(held_out_scores(said, 0, 0), [0.25, 0.25, 0.5])


def test_size_without_enough_labels_is_null(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(pair.model_dump_json() + "\n" for pair in PAIRS[:120]))
    command = ["learning-curve", "--pairs", str(file), "--sizes", "0", "60", "110", "--out", str(tmp_path)]
    assert main(command) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["labels"] for row in rows if row["auroc"] is None] == [110]  # five sixths of 120 may train
    assert (tmp_path / "learning-curve.png").read_bytes().startswith(b"\x89PNG")
