"""What a text answers, and how samples agree with a draft."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.records import Agreement
from routing.text.answers import agreement_of, answer_of, answers_like, same_answer
from routing.text.structure import agreement

LONG = "The bridge was closed in spring because two of its cables had rusted through and nobody had looked at them."

SAME = [
    ("18", "18.0", True),
    ("Paris", " paris.", True),
    ("Paris", "Rome", False),
    ('{"a": 1, "b": 2}', '```json\n{"b": 2, "a": 1}\n```', True),
    ('{"a": 1}', '{"a": 2}', False),
    ("```python\nprint(1)\n```", "print(1)", True),
    (LONG, LONG.replace("two", "some"), True),
    (
        LONG,
        "Ticket prices rise every summer when the tourists come, and fall again as soon as the first snow lies.",
        False,
    ),
    (LONG, "18", False),
    ("", "", False),
]


@pytest.mark.parametrize(("text", "other", "same"), SAME)
def test_two_texts_answer_the_same(text: str, other: str, same: bool) -> None:
    assert same_answer(text, other) is same
    assert same_answer(other, text) is same


def test_prose_has_no_short_answer() -> None:
    assert answer_of(LONG) is None


def test_samples_are_counted_into_agreeing_and_the_largest_rival() -> None:
    assert agreement_of("4", ["4", "5", "5", "6"]) == Agreement(n_samples=4, n_agree=1, n_rival=2)
    assert agreement_of("4", ["4", "4"]) == Agreement(n_samples=2, n_agree=2, n_rival=0)
    assert agreement_of("", ["", ""]) == Agreement(n_samples=2, n_agree=0, n_rival=1)


@given(st.lists(st.sampled_from(["4", "5", "6", ""]), min_size=1, max_size=6), st.sampled_from(["4", "5"]))
def test_counts_alone_give_the_features_of_the_samples(samples: list[str], draft: str) -> None:
    counted = answers_like(draft, agreement_of(draft, samples))
    assert len(counted) == len(samples)
    whole, stand_in = agreement(draft, samples), agreement(draft, counted)
    assert stand_in[0] == whole[0]  # the share that agrees


@given(st.text(max_size=300))
def test_any_text_can_be_compared(text: str) -> None:
    same_answer(text, "x")
    agreement_of(text, [text, "y"])
