"""The share that stays on tier 1 without labels: the published points, and the order of its bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.audit.forecast.tier1_share import (
    ESCALATED_RATIO,
    KEPT_QUALITY,
    best_steepness,
    kept_ratio,
    recovered_gap,
    tier1_share,
)


@pytest.mark.parametrize(("relative", "kept_quality"), KEPT_QUALITY)
def test_curve_passes_through_the_published_points(relative: float, kept_quality: float) -> None:
    recovered = recovered_gap(ESCALATED_RATIO, best_steepness(relative))
    assert relative + recovered * (1 - relative) == pytest.approx(kept_quality)


@pytest.mark.parametrize(
    ("relative", "f98"),
    [
        (0.552 / 0.834, 0.49),  # ZeroEval, draft and four other answers: benchmarks/LOG.md, quality
        (0.443 / 0.698, 0.69),  # MMLU-Pro, likewise
    ],
)
def test_measured_frontier_share_at_98_percent_lies_within_the_bounds(relative: float, f98: float) -> None:
    share = tier1_share(0.98, relative)
    assert share.low <= 1 - f98 <= share.high + 0.04


@given(st.floats(0.3, 0.999), st.floats(0.5, 1))
def test_bounds_are_in_order_and_a_higher_target_keeps_less(relative: float, target: float) -> None:
    for quality in (relative, None):
        share = tier1_share(target, quality)
        assert 0 <= share.low <= share.expected <= share.high <= 1
        stricter = tier1_share(min(1.0, target + 0.01), quality)
        assert stricter.expected <= share.expected + 1e-12


@given(st.floats(0.5, 1))
def test_unknown_tier1_has_wider_bounds_than_any_known_one(target: float) -> None:
    unknown = tier1_share(target)
    for quality, _ in KEPT_QUALITY:
        known = tier1_share(target, quality)
        assert unknown.low <= known.low
        assert known.high <= unknown.high


def test_tier1_that_is_good_enough_answers_everything() -> None:
    assert kept_ratio(0.98, 0.98, 3.0) == 1.0


def test_target_beyond_the_frontier_is_refused() -> None:
    with pytest.raises(ValueError, match="share of the frontier"):
        tier1_share(1.2)
