"""Graded pairs are read strictly and split so that no question is on both sides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.learning.labels import Pair, question_key, read_pairs, split_by_prompt, without_questions

QUESTION = "Which of these metals melts at the lowest temperature under normal pressure?"


def pair(prompt: str, tier1: float = 0.0, frontier: float = 1.0) -> Pair:
    return Pair(id=prompt, category="c", prompt=prompt, tier1_quality=tier1, frontier_quality=frontier)


@given(st.lists(st.text(max_size=30), max_size=40), st.floats(0, 1), st.integers(0, 5))
def test_no_question_is_on_both_sides(prompts: list[str], test_ratio: float, seed: int) -> None:
    train, test = split_by_prompt([pair(p) for p in prompts], test_ratio, seed)
    assert len(train) + len(test) == len(prompts)
    assert not {question_key(p.prompt) for p in train} & {question_key(p.prompt) for p in test}


def test_a_question_with_other_options_or_spelling_is_the_same_question() -> None:
    one = f"{QUESTION}\nA. iron\nB. tin\nAnswer:"
    other = f"{QUESTION.upper()}\n(A) gold\n(B) gallium"
    assert question_key(one) == question_key(other)


def test_short_stems_are_told_apart_by_their_options() -> None:
    assert question_key("Which is true?\nA. x\nB. y") != question_key("Which is true?\nA. v\nB. w")


def test_test_questions_are_left_out_of_training() -> None:
    kept = without_questions([pair("one"), pair("two")], ["ONE!"])
    assert [p.prompt for p in kept] == ["two"]


def test_frontier_right_where_tier1_is_wrong_is_the_gain() -> None:
    assert (pair("p").gain, pair("p").tier1_ok, pair("p").bad_draft) == (1.0, False, True)
    both_wrong = pair("p", 0.0, 0.0)
    assert (both_wrong.gain, both_wrong.tier1_ok, both_wrong.bad_draft) == (0.0, True, True)


@pytest.mark.parametrize("line", ['{"id": "1"}', "[]", "no json", '{"id":"1","category":"c","prompt":"p","x":1}'])
def test_a_line_that_does_not_fit_is_named(line: str) -> None:
    with pytest.raises(ValueError, match="line 2"):
        read_pairs(["", line])
