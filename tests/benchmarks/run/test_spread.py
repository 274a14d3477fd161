"""Rounds become a median with its ends, ratios are of the same round, and chance is said."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.run.spread import apart, arms_order, chance_apart, over_rounds, ratios

FIGURES = st.floats(0, 1e6) | st.none()


@given(st.lists(FIGURES, min_size=1, max_size=9))
def test_median_lies_between_its_ends_and_nothing_measured_is_none(values: list[float | None]) -> None:
    row = over_rounds([{"ttft_s": value} for value in values])
    assert row["rounds"] == len(values)
    seen = [value for value in values if value is not None]
    if not seen:
        assert (row["ttft_s"], row["ttft_s_spread"]) == (None, None)
    else:
        assert row["ttft_s_spread"] == [min(seen), max(seen)]
        assert min(seen) <= row["ttft_s"] <= max(seen)


def test_a_figure_that_only_a_later_round_has_is_kept() -> None:
    assert over_rounds([{}, {"tps": 3.0}])["tps"] == 3.0


def test_ratio_is_of_one_round_and_none_where_a_side_is_missing() -> None:
    ours = [{"tps": 3.0}, {"tps": None}, {"tps": 1.0}, {"tps": 1.0}]
    theirs = [{"tps": 4.0}, {"tps": 2.0}, {"tps": None}, {"tps": 0.0}]
    assert ratios(ours, theirs, "tps") == [0.75, None, None, None]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [([1, 2], [3, 4], True), ([3, 4], [1, 2], True), ([1, 3], [2, 4], False), ([1, 2], [2, 3], False)],
)
def test_intervals_that_touch_are_not_apart(one: list[float], other: list[float], expected: bool) -> None:
    assert apart(one, other) is expected


@pytest.mark.parametrize("rounds", [(1, 1), (2, 2), (3, 3), (2, 4)])
def test_chance_is_that_of_drawing_equal_things(rounds: tuple[int, int]) -> None:
    orders = list(permutations(range(sum(rounds))))
    hits = 0
    for order in orders:
        one, other = order[: rounds[0]], order[rounds[0] :]
        hits += apart([min(one), max(one)], [min(other), max(other)])
    assert hits / len(orders) == pytest.approx(chance_apart(*rounds))


def test_no_arm_always_follows_the_same_one() -> None:
    assert [arms_order(("a", "b", "c"), n) for n in range(2)] == [["a", "b", "c"], ["c", "b", "a"]]
