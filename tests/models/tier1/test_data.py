"""What tier 1 is trained on: examples of ours, tasks of the suite, and a split that no question crosses."""

import json
from pathlib import Path

import pytest

from models.tier1.data import (
    Example,
    ExamplesInvalid,
    example_of,
    examples_sha256,
    read_examples,
    split_examples,
    without,
)

CHAT = [{"role": "user", "content": "2+2?"}]


@pytest.mark.parametrize(
    ("verifier", "target"),
    [
        ({"kind": "exact", "answers": ["Ines", "ines"]}, "Ines"),
        ({"kind": "number", "value": 10.0}, "10"),
        ({"kind": "number", "value": -2.5}, "-2.5"),
        ({"kind": "json", "value": {"a": "é", "n": 1}}, '{"a": "é", "n": 1}'),
    ],
)
def test_task_with_one_right_answer_is_an_example(verifier: dict[str, object], target: str) -> None:
    found = example_of({"id": "t", "kind": "k", "category": "c", "messages": CHAT, "verifier": verifier})
    assert found == Example(id="t", category="k", messages=tuple(CHAT), completion=target)


@pytest.mark.parametrize("kind", ["program", "listing"])
def test_task_that_only_checks_properties_is_left_out(kind: str) -> None:
    assert example_of({"id": "t", "category": "c", "messages": CHAT, "verifier": {"kind": kind}}) is None


@pytest.mark.parametrize("kind", ["program", "listing"])
def test_answer_that_the_generator_names_is_the_target(kind: str) -> None:
    verifier = {"kind": kind, "answer": "a; b"}
    found = example_of({"id": "t", "category": "c", "messages": CHAT, "verifier": verifier})
    assert found is not None
    assert found.completion == "a; b"


def test_examples_like_an_evaluation_prompt_are_left_out() -> None:
    def ask(text: str) -> Example:
        return Example(id=text, category="c", messages=({"role": "user", "content": text},), completion="x")

    asked = "Which of these four words comes first in the alphabet: pear, fig, plum or apple?"
    nearly = "Which of these four words comes first in the alphabet: pear, fig, plum or apple then?"
    other = "Write the date of the third Monday in May as year, month and day."
    kept = without([ask(asked), ask(asked.upper()), ask(nearly), ask(other)], [asked])
    assert [example.prompt for example in kept] == [other]


def test_wrong_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "data.jsonl"
    good = {"id": "a", "category": "c", "messages": CHAT, "completion": "4"}
    file.write_text(f"{json.dumps(good)}\n{json.dumps({**good, 'colour': 1})}\n")
    with pytest.raises(ExamplesInvalid, match=r"data\.jsonl: line 2"):
        read_examples([file])


def test_no_question_is_on_both_sides() -> None:
    def ask(i: int, text: str) -> Example:
        return Example(id=str(i), category="c", messages=({"role": "user", "content": text},), completion="x")

    long = "what is the capital of the country with number {} in the list"
    examples = [ask(i, long.format(i % 50).upper() if i % 2 else long.format(i % 50)) for i in range(200)]
    train, held = split_examples(examples, 0.3, seed=1)
    assert train
    assert held
    assert not {e.prompt.lower() for e in train} & {e.prompt.lower() for e in held}
    assert examples_sha256(examples) != examples_sha256(train)
