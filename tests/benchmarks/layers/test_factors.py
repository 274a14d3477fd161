"""Factors compare two rows question by question; their product is the last row over the first."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.layers.factors import ceiling, factor, together
from tests.benchmarks.layers.answers import N, by_tier1, ladder, measured, one


def test_product_of_the_factors_is_the_last_row_over_the_first() -> None:
    table = ladder()
    first, last = table.rows[0], table.rows[-1]
    whole = together(table.requests[first.name], table.requests[last.name], (first.throughput_rps, last.throughput_rps))
    factors = [f.usd.value for f in table.factors()]
    assert None not in factors
    assert math.prod(f for f in factors if f is not None) == pytest.approx(whole.usd.value)
    assert whole.usd.value == pytest.approx(0.505)


def test_a_layer_that_changes_nothing_has_factor_one_and_no_spread() -> None:
    rows = [one(n, frontier_usd=0.001 * (n + 1)) for n in range(N)]
    found = factor("same", rows, list(reversed(rows)), (2.0, 2.0))
    assert (found.usd.value, found.usd.low, found.usd.high) == (1.0, 1.0, 1.0)
    assert found.accuracy.value == 1.0


def test_own_engines_have_no_factor_where_they_were_not_used_before() -> None:
    table = measured(("frontier", one), ("routing", by_tier1))
    assert table.factors()[0].own_usd.value is None
    assert table.factors()[0].usd.value == pytest.approx(0.02)


def test_intervals_hold_the_factor_and_pairing_makes_them_narrow() -> None:
    dear = [one(n, frontier_usd=0.001 * (1 + n % 7)) for n in range(N)]
    half = [one(n, frontier_usd=0.0005 * (1 + n % 7)) for n in range(N)]
    found = factor("half", dear, half, (1.0, 1.0)).usd
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(0.5))


@pytest.mark.parametrize("other", [[one(0)], [one(0), one(2)], [one(0), one(0)]])
def test_rows_of_other_questions_are_not_compared(other: list[object]) -> None:
    with pytest.raises(ValueError, match="same questions"):
        factor("x", [one(0), one(1)], other, (1.0, 1.0))  # type: ignore[arg-type]


def test_one_unknown_bill_leaves_the_factor_unknown_and_accuracy_known() -> None:
    found = factor("x", [one(0), one(1)], [one(0), one(1, frontier_usd=None)], (1.0, 1.0))
    assert (found.usd.value, found.accuracy.value) == (None, 1.0)


def test_ceiling_keeps_what_tier_1_answers_as_well_then_the_dearest() -> None:
    frontier = [one(0, frontier_usd=0.004), one(1, frontier_usd=0.003), one(2, frontier_usd=0.002), one(3)]
    grades = {"task-0": 0.0, "task-1": 0.0, "task-2": 1.0, "task-3": 1.0}
    all_right = ceiling(grades, frontier, 0.0, 1.0)
    assert all_right is not None
    assert (all_right.kept_ratio, all_right.saved_ratio) == (0.5, pytest.approx(0.3))
    one_wrong = ceiling(grades, frontier, 0.0, 0.75)
    assert one_wrong is not None
    assert (one_wrong.kept_ratio, one_wrong.saved_ratio) == (0.75, pytest.approx(0.7))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30), st.floats(0.5, 1))
def test_ceiling_keeps_the_accuracy_it_is_asked_for(grades: list[tuple[bool, bool]], target: float) -> None:
    frontier = [one(n, quality=float(right)) for n, (_, right) in enumerate(grades)]
    tier1 = {f"task-{n}": float(right) for n, (right, _) in enumerate(grades)}
    found = ceiling(tier1, frontier, 1e-5, target)
    right = sum(r for _, r in grades)
    if right == 0:
        assert found is None
        return
    assert found is not None
    needed = (
        sum(f for t, f in grades if f and not t) / right - (1 - target) - sum(t and not f for t, f in grades) / right
    )
    assert 1 - found.kept_ratio >= needed * right / len(grades) - 1e-9
