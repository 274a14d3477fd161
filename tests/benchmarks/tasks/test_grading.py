"""What counts as right: by program, the same for every model, never by how it sounds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.tasks.grading import grade
from benchmarks.tasks.suite import Split, tasks
from benchmarks.tasks.task import Exact, Json, Listing, Number, Program, Verifier

SQUARES = Program(function="f", cases=(([[1, 2, 3]], [4]), ([[]], [])))
TREES = Listing(n_items=2, separator=";")

CASES: list[tuple[Verifier, str, float]] = [
    (Number(value=42), "42", 1.0),
    (Number(value=42), "6 * 7 = 42.", 1.0),
    (Number(value=1200), "1,200", 1.0),
    (Number(value=42), "42 is not 43", 0.0),
    (Number(value=42), "forty-two", 0.0),
    (Number(value=-3), "-3", 1.0),
    (Exact(answers=("fig, pear",)), "Fig,pear.", 1.0),
    (Exact(answers=("fig, pear",)), "pear, fig", 0.0),
    (Exact(answers=("[6, 19]",)), "`[6, 19]`", 1.0),
    (Exact(answers=("billing",)), "The class is billing", 0.0),
    (Json(value={"a": "Bob", "n": 1}), '```json\n{"n": 1, "a": " bob"}\n```', 1.0),
    (Json(value={"a": "Bob", "n": 1}), '{"a": "Bob", "n": true}', 0.0),
    (Json(value={"a": "Bob"}), '{"a": "Bob", "n": 1}', 0.0),
    (Json(value={"a": "Bob"}), '{"a": "Bob"', 0.0),
    (SQUARES, "```python\ndef f(xs):\n    return [x * x for x in xs if x % 2 == 0]\n```", 1.0),
    (SQUARES, "def f(xs):\n    return [x * x for x in xs]", 0.0),
    (SQUARES, "def g(xs):\n    return []", 0.0),
    (TREES, "oak; elm.", 1.0),
    (TREES, "oak; Oak", 0.0),
    (TREES, "oak, elm", 0.0),
    (TREES, "oak; elm; ash", 0.0),
    (TREES, "1; 2", 0.0),
    (TREES, "oak;\nelm", 1.0),
]


@pytest.mark.parametrize(("verifier", "answer", "quality"), CASES)
def test_answer_is_graded_by_program(verifier: Verifier, answer: str, quality: float) -> None:
    assert grade(verifier, answer) == quality


@settings(max_examples=200)
@given(st.text(max_size=200), st.sampled_from([v for v, _, _ in CASES if not isinstance(v, Program)]))
def test_no_text_breaks_a_grader(answer: str, verifier: Verifier) -> None:
    assert grade(verifier, answer) in (0.0, 1.0)


def test_empty_answer_is_wrong_everywhere() -> None:
    assert not any(grade(task.verifier, "") for task in tasks(Split.TEST)[::7])
