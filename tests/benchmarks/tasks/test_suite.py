"""The suite: many kinds, seeded, splits that share no question, categories as the gateway derives them."""

import json
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.tasks.grading import grade
from benchmarks.tasks.suite import FAMILIES, SIZES, Split, TooSmall, family, tasks
from benchmarks.tasks.task import Exact, Question
from models.tier1.data import target_of
from routing.learning.labels import question_key


def test_splits_share_no_question() -> None:
    """What is tested was neither trained on nor calibrated with."""
    keys = {split: [question_key(task.prompt) for task in tasks(split)] for split in Split}
    assert all(len(set(own)) == len(own) for own in keys.values())
    assert not set(keys[Split.TRAIN]) & set(keys[Split.CALIBRATION])
    assert not (set(keys[Split.TRAIN]) | set(keys[Split.CALIBRATION])) & set(keys[Split.TEST])
    others = set(keys[Split.TRAIN]) | set(keys[Split.CALIBRATION]) | set(keys[Split.TEST])
    assert not set(keys[Split.TUNING]) & others


def test_a_seed_always_gives_the_same_questions_and_another_seed_others() -> None:
    assert tasks(Split.TEST, 0) == tasks(Split.TEST, 0)
    assert tasks(Split.TEST, 0) != tasks(Split.TEST, 1)


def test_there_are_eight_kinds_and_more_each_of_one_size() -> None:
    made = tasks(Split.TEST)
    kinds = [task.kind for task in made]
    assert set(kinds) == set(FAMILIES)
    assert len(set(kinds)) >= 8
    assert {kinds.count(kind) for kind in set(kinds)} == {SIZES[Split.TEST]}
    assert len({task.category for task in made}) >= 5


def test_right_answers_of_the_data_are_graded_right() -> None:
    for task in tasks(Split.TEST):
        if isinstance(task.verifier, Exact):
            assert all(grade(task.verifier, answer) == 1.0 for answer in task.verifier.answers)


@pytest.mark.parametrize("split", [Split.TEST, Split.TUNING])
def test_every_task_names_an_answer_that_its_own_program_accepts(split: Split) -> None:
    for task in tasks(split):
        answer = target_of(task.verifier.model_dump())
        assert answer is not None
        assert grade(task.verifier, answer) == 1.0, task.id


def test_family_that_repeats_itself_is_refused() -> None:
    same = Question("Say yes.", Exact(answers=("yes",)))
    with pytest.raises(TooSmall, match="parrot"):
        family("parrot", lambda rng, level: same, (1,), Split.TEST, 0)


def test_exported_tasks_can_be_graded_from_the_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported, answers = tmp_path / "tasks.jsonl", tmp_path / "answers.jsonl"
    assert main(["tasks", "export", "--split", "test", "--out", str(exported)]) == 0
    task = json.loads(exported.read_text().splitlines()[0])
    assert {"id", "category", "messages", "verifier", "max_tokens"} <= set(task)
    rows = [{"id": task["id"], "output": str(int(task["verifier"]["value"]))}, {"id": task["id"], "output": "no"}]
    answers.write_text("\n".join(json.dumps(row) for row in rows))
    capsys.readouterr()
    assert main(["tasks", "grade", "--tasks", str(exported), "--answers", str(answers)]) == 0
    assert [json.loads(line)["quality"] for line in capsys.readouterr().out.splitlines()] == [1.0, 0.0]


def test_answer_to_no_task_is_refused_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exported, answers = tmp_path / "tasks.jsonl", tmp_path / "answers.jsonl"
    main(["tasks", "export", "--split", "test", "--out", str(exported)])
    answers.write_text('{"id": "nobody", "output": ""}')
    assert main(["tasks", "grade", "--tasks", str(exported), "--answers", str(answers)]) == 2
    assert "line 1" in capsys.readouterr().err
