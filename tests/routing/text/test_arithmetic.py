"""Equations of a draft are worked out again. Anything else is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.text.arithmetic import equations


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("He pays 3 * 4 = 12 dollars", (1, 0)),
        ("He pays 3 * 4 = 13 dollars", (1, 1)),
        ("400 + 240 = 640, then 640 - 1,000 = -360", (2, 0)),
        ("$0.40 * 9 * 1040 = $<<0.40*9*1040=3760>>3760", (1, 1)),
        ("(200 + 200) * 1.6 = 640", (1, 0)),
        ("10 / 3 = 3.33", (1, 0)),
        ("20% × 50 = 10", (1, 0)),
        ("1 / 0 = 5", (0, 0)),
        ("x = 5, f(2) = 4", (0, 0)),
        ("no numbers here", (0, 0)),
    ],
)
def test_equations_are_checked(text: str, expected: tuple[int, int]) -> None:
    assert equations(text) == expected


@given(st.integers(0, 9999), st.integers(0, 9999), st.sampled_from("+-*"), st.integers(-50, 50))
def test_only_a_wrong_result_is_wrong(a: int, b: int, sign: str, error: int) -> None:
    right = {"+": a + b, "-": a - b, "*": a * b}[sign]
    n, wrong = equations(f"so {a} {sign} {b} = {right + error}.")
    assert n == 1
    # A thousandth counts as rounding.
    assert wrong == (abs(error) > max(1e-3 * max(abs(right), abs(right + error)), 0.006))


@given(st.text(alphabet="0123456789+-*/=(). $%,x", max_size=500))
def test_nothing_a_draft_writes_raises(text: str) -> None:
    n, wrong = equations(text)
    assert 0 <= wrong <= n <= 40
