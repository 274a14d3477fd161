"""Counts of prompts, drafts and answers: one number a feature, finite for any text."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.text.structure import (
    AGREEMENT_FEATURES,
    DRAFT_FEATURES,
    PROMPT_FEATURES,
    agreement,
    draft_structure,
    exact_agreement,
    exact_answer,
    normal_answer,
    prompt_structure,
)

answers = st.none() | st.text(max_size=12)


def feature(names: tuple[str, ...], values: np.ndarray, name: str) -> float:
    return float(values[names.index(name)])


@given(st.text(max_size=300), st.text(max_size=300), answers)
def test_any_text_gives_every_feature_as_a_finite_number(prompt: str, draft: str, answer: str | None) -> None:
    for names, values in (
        (PROMPT_FEATURES, prompt_structure(prompt)),
        (DRAFT_FEATURES, draft_structure(prompt, draft, answer)),
    ):
        assert values.shape == (len(names),)
        assert np.isfinite(values).all()


@given(answers, st.lists(answers, min_size=1, max_size=5))
def test_agreement_is_a_share(answer: str | None, others: list[str | None]) -> None:
    values = agreement(answer, others)
    assert values.shape == (len(AGREEMENT_FEATURES),)
    assert 0 <= feature(AGREEMENT_FEATURES, values, "agree_ratio") <= 1
    assert 0 <= feature(AGREEMENT_FEATURES, values, "rival_ratio") <= 1


def test_options_are_counted_and_not_part_of_the_stem() -> None:
    values = prompt_structure("Which is not a metal?\nA. iron\nB. wood\nC. tin\nAnswer:")
    assert feature(PROMPT_FEATURES, values, "n_options") == 3
    assert feature(PROMPT_FEATURES, values, "log_stem_words") == pytest.approx(np.log(6))
    assert feature(PROMPT_FEATURES, values, "negation") == 1
    assert feature(PROMPT_FEATURES, values, "asks") == 1


def test_wrong_equation_and_missing_answer_are_seen_in_a_draft() -> None:
    values = draft_structure("What is 3 times 4?", "3 * 4 = 13, so the answer is 13.", "13")
    assert feature(DRAFT_FEATURES, values, "equations_wrong") == 1
    assert feature(DRAFT_FEATURES, values, "answer_stated") == 1
    assert feature(DRAFT_FEATURES, draft_structure("", "I do not know.", None), "answer_found") == 0


@pytest.mark.parametrize(("one", "other"), [("18", "18.0"), ("$1,800", "1800"), (" B ", "b"), ("50%", "50")])
def test_spellings_of_one_answer_agree(one: str, other: str) -> None:
    assert normal_answer(one) == normal_answer(other)
    assert feature(AGREEMENT_FEATURES, agreement(one, [other]), "agree_ratio") == 1


def test_two_missing_answers_do_not_agree() -> None:
    assert feature(AGREEMENT_FEATURES, agreement(None, [None]), "agree_ratio") == 0


@pytest.mark.parametrize(
    ("one", "other"), [("18", "$18.00"), ("[1, 2]", "[1,2]"), ('"ab"', "'ab'"), ("'ab'", "ab"), ("", " ")]
)
def test_exact_spelling_forgives_quotes_and_spaces_beside_marks(one: str, other: str) -> None:
    assert exact_answer(one) == exact_answer(other)


@pytest.mark.parametrize(("one", "other"), [("Ab", "aB"), ("a b", "ab"), ("", None), ("[1, 2]", "[12]")])
def test_exact_spelling_tells_apart_what_programs_tell_apart(one: str, other: str | None) -> None:
    assert exact_answer(one) != exact_answer(other)


@given(answers, st.lists(answers, min_size=1, max_size=5))
def test_exact_agreement_is_a_share_and_one_word_of_each(answer: str | None, others: list[str | None]) -> None:
    values = exact_agreement(answer, others)
    assert values.shape == (3 + len(others),)
    assert values[0] == pytest.approx(values[3:].mean())
    assert 0 <= values[0] + values[1] <= 1 + 1e-9


def test_others_that_agree_with_each_other_are_a_rival() -> None:
    values = agreement("1", ["2", "2", "2", "1"])
    assert feature(AGREEMENT_FEATURES, values, "agree_ratio") == 0.25
    assert feature(AGREEMENT_FEATURES, values, "rival_ratio") == 0.75
