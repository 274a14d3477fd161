"""One logistic model per category: shares, each category with its own weights, strangers with the common ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.heads.logistic import MAX_DEVIATIONS, Logistic, standardised

TWO = Logistic(
    mean=np.array([1.0, 0.0]),
    spread=np.array([2.0, 0.0]),
    weights=np.array([[[1.0], [5.0]], [[-1.0], [5.0]], [[0.5], [5.0]]]),
    bias=np.array([[0.0], [0.0], [1.0]]),
)
numbers = st.floats(-1e6, 1e6)


@given(numbers, numbers, st.sampled_from([None, 0, 1]))
def test_every_row_gives_a_share(one: float, other: float, category: int | None) -> None:
    share = TWO.predict(np.array([one, other]), category)
    assert share.shape == (1,)
    assert 0 <= share[0] <= 1


def test_categories_weigh_a_column_in_their_own_way() -> None:
    row = np.array([3.0, 0.0])
    assert TWO.predict(row, 0)[0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert TWO.predict(row, 1)[0] == pytest.approx(1 / (1 + np.exp(1)))


def test_unknown_category_gets_the_common_weights() -> None:
    assert TWO.predict(np.array([3.0, 0.0]), None)[0] == pytest.approx(1 / (1 + np.exp(-1.5)))


def test_no_column_counts_for_more_than_a_few_deviations() -> None:
    z = standardised(np.array([1e9, -1e9]), np.zeros(2), np.ones(2))
    assert list(z) == [MAX_DEVIATIONS, -MAX_DEVIATIONS]


def test_column_that_never_varied_is_not_divided_by_zero() -> None:
    assert standardised(np.array([7.0]), np.array([7.0]), np.array([0.0]))[0] == 0
