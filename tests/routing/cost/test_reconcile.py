"""Two books side by side: what is equal, what differs, and how much of the bill we know of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.cost.reconcile import MEASURES, Standing, UsageBucket, add_up, reconcile


def bucket(day: int = 1, model: str = "large", **figures: float | None) -> UsageBucket:
    given = {"requests": 2, "input_tokens": 100, "cached_tokens": 10, "output_tokens": 50, "cost_usd": 0.5, **figures}
    return UsageBucket(day=f"2026-11-{day:02d}", model=model, **given)


def test_equal_books_agree() -> None:
    found = reconcile(
        [bucket(), bucket()], [bucket(requests=4, input_tokens=200, cached_tokens=20, output_tokens=100, cost_usd=1.0)]
    )
    assert found.agrees
    assert set(found.captured_ratio.values()) == {1.0}


def test_every_way_to_differ_is_told() -> None:
    found = reconcile([bucket(1), bucket(2, output_tokens=40), bucket(3)], [bucket(1), bucket(2), bucket(4, "small")])
    assert [(row.day[-2:], row.standing, row.different) for row in found.rows] == [
        ("01", Standing.EQUAL, ()),
        ("02", Standing.DIFFERENT, ("output_tokens",)),
        ("03", Standing.ONLY_LEDGER, ()),
        ("04", Standing.ONLY_PROVIDER, ()),
    ]
    assert not found.agrees
    assert found.captured_ratio["output_tokens"] == pytest.approx(90 / 150)


def test_what_one_side_does_not_say_is_no_difference() -> None:
    found = reconcile([bucket()], [bucket(requests=None, cost_usd=None)])
    assert found.agrees
    assert found.captured_ratio["requests"] is None


@pytest.mark.parametrize(("off", "agrees"), [(5e-7, True), (5e-6, False)])
def test_dollars_may_be_rounded_and_no_more(off: float, agrees: bool) -> None:
    assert reconcile([bucket()], [bucket(cost_usd=0.5 + off)]).agrees is agrees


buckets = st.lists(
    st.builds(
        bucket,
        day=st.integers(1, 5),
        model=st.sampled_from(["large", "small"]),
        input_tokens=st.none() | st.integers(0, 1000),
        cost_usd=st.none() | st.floats(0, 10),
    ),
    max_size=12,
)


@given(ours=buckets, theirs=buckets)
def test_captured_share_is_a_share_and_books_agree_with_themselves(
    ours: list[UsageBucket], theirs: list[UsageBucket]
) -> None:
    found = reconcile(ours, theirs)
    assert all(ratio is None or 0 <= ratio <= 1 + 1e-12 for ratio in found.captured_ratio.values())
    assert reconcile(theirs, theirs).agrees
    assert set(found.captured_ratio) == set(MEASURES)
    assert {(row.day, row.model) for row in found.rows} == add_up(ours).keys() | add_up(theirs).keys()
