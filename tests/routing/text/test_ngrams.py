"""Hashed word and letter counts: deterministic, bounded, blind to case and spacing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.text.ngrams import N_BUCKETS, letter_counts, word_counts


@given(st.text(max_size=300))
def test_any_text_gives_sorted_buckets_with_positive_counts(text: str) -> None:
    for count in (word_counts, letter_counts):
        buckets, values = count(text)
        assert buckets.shape == values.shape
        assert np.all(np.diff(buckets) > 0)
        assert np.all((buckets >= 0) & (buckets < N_BUCKETS))
        assert np.all(values >= 1)


def test_case_and_spacing_do_not_count() -> None:
    for count in (word_counts, letter_counts):
        assert np.array_equal(count("Hello   World\n")[0], count("hello world")[0])


def test_words_count_wherever_they_stand() -> None:
    early, late = set(word_counts("cat sat")[0]), set(word_counts("the old grey cat sat")[0])
    assert early <= late
    assert len(early) == 3  # two words and their pair


def test_word_order_is_seen_in_pairs() -> None:
    assert set(word_counts("big cat")[0]) != set(word_counts("cat big")[0])


def test_repeats_grow_with_the_logarithm() -> None:
    _, values = word_counts("cat. cat. cat.")
    assert values.max() == pytest.approx(1 + np.log(3))


def test_letter_groups_do_not_cross_words() -> None:
    assert set(letter_counts("cat dog")[0]) == set(letter_counts("cat")[0]) | set(letter_counts("dog")[0])


def test_a_huge_prompt_is_read_at_its_edges() -> None:
    head, tail = "a" * 4096, "b" * 4096
    assert np.array_equal(letter_counts(head + "zq" * 50_000 + tail)[0], letter_counts(head + "yw" * 9 + tail)[0])
