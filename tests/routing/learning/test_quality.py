"""Quality measures against hand-computed cases, a second implementation, and what must hold for every score."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score

from routing.intervals import bootstrap_interval
from routing.learning.quality import (
    apgr,
    auroc,
    brier,
    cpt,
    ece,
    ece_floor,
    frontier_ratio_for,
    pgr,
    quality_curve,
    reliability,
)

# Four requests: tier 1 right on two, the frontier on all. The router sends the two hard ones first.
TIER1 = [1.0, 1.0, 0.0, 0.0]
FRONTIER = [1.0, 1.0, 1.0, 1.0]
GOOD_SCORE = [0.9, 0.8, 0.2, 0.1]

grades = st.lists(st.tuples(st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])), min_size=2, max_size=60)
scored = st.lists(
    st.tuples(st.integers(-1000, 1000), st.sampled_from([0.0, 1.0]), st.sampled_from([0.0, 1.0])),
    min_size=2,
    max_size=60,
)


def test_curve_runs_from_all_tier1_to_all_frontier() -> None:
    curve = quality_curve(GOOD_SCORE, TIER1, FRONTIER)
    assert curve.frontier_ratio == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert curve.quality == (0.5, 0.75, 1.0, 1.0, 1.0)
    assert (curve.tier1_quality, curve.frontier_quality) == (0.5, 1.0)


def test_apgr_by_hand() -> None:
    # Quality rises .5 -> 1 over the first half: area .5*.75 + .5*1 = .875, PGR (.875 - .5) / .5 = .75.
    assert apgr(quality_curve(GOOD_SCORE, TIER1, FRONTIER)) == pytest.approx(0.75)


def test_apgr_of_the_worst_order_mirrors_the_best() -> None:
    assert apgr(quality_curve([-s for s in GOOD_SCORE], TIER1, FRONTIER)) == pytest.approx(0.25)


def test_apgr_passes_one_when_each_tier_knows_what_the_other_does_not() -> None:
    # Means .25 and .5, but .75 when the frontier gets only what it wins.
    curve = quality_curve([0.0, 0.1, 0.9, 1.0], [0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0])
    value = apgr(curve)
    assert value is not None
    assert value > 1


def test_equal_scores_count_as_random() -> None:
    assert apgr(quality_curve([0.3] * 4, TIER1, FRONTIER)) == pytest.approx(0.5)


def test_without_a_gap_there_is_nothing_to_recover() -> None:
    curve = quality_curve([0.1, 0.2], [1.0, 1.0], [1.0, 1.0])
    assert apgr(curve) is None
    assert cpt(curve, 0.5) is None
    assert pgr(0.5, 0.6, 0.6) is None


@pytest.mark.parametrize(("gap_ratio", "share"), [(0.5, 0.25), (0.8, 0.4), (1.0, 0.5)])
def test_cpt_by_hand(gap_ratio: float, share: float) -> None:
    assert cpt(quality_curve(GOOD_SCORE, TIER1, FRONTIER), gap_ratio) == pytest.approx(share)


def test_frontier_share_for_a_quality_by_hand() -> None:
    curve = quality_curve(GOOD_SCORE, TIER1, FRONTIER)
    assert frontier_ratio_for(curve, 0.98) == pytest.approx(0.48)
    assert frontier_ratio_for(curve, 0.5) == 0.0


@pytest.mark.parametrize("gap_ratio", [0.1, 0.5, 0.8])
def test_random_needs_its_share(gap_ratio: float) -> None:
    assert cpt(quality_curve([0.0] * 4, TIER1, FRONTIER), gap_ratio) == pytest.approx(gap_ratio)


def test_floor_of_ece_is_what_right_probabilities_show_on_so_few_rows() -> None:
    rng = np.random.default_rng(0)
    few, many = (rng.random(n) for n in (100, 10_000))
    assert ece_floor(few) > 5 * ece_floor(many)
    right = (rng.random(many.size) < many).astype(float)
    assert ece(many, right) == pytest.approx(ece_floor(many), abs=0.01)
    assert ece(many, 1 - right) > 10 * ece_floor(many)


def test_ece_by_hand() -> None:
    # Two bins: two rows at .2 of which one happened (gap .3), two rows at .9 that both did (gap .1).
    assert ece([0.2, 0.2, 0.9, 0.9], [0, 1, 1, 1], n_bins=10) == pytest.approx(0.2)


def test_certain_and_right_is_calibrated() -> None:
    assert ece([0.0, 1.0], [0, 1]) == 0
    assert brier([0.0, 1.0], [0, 1]) == 0


def test_probability_outside_the_unit_interval_is_refused() -> None:
    with pytest.raises(ValueError, match=r"0\.\.1"):
        reliability([1.2, 0.1], [1, 0])


@pytest.mark.parametrize("columns", [([], []), ([0.1], [1.0, 0.0]), ([float("nan")], [1.0])])
def test_unusable_columns_are_refused(columns: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match=r"columns|column"):
        auroc(*columns)


def test_auroc_needs_both_classes() -> None:
    assert auroc([0.1, 0.9], [1, 1]) is None


@given(scored)
def test_auroc_and_brier_agree_with_scikit_learn(rows: list[tuple[int, float, float]]) -> None:
    score = np.array([r[0] for r in rows], dtype=float)
    label = np.array([r[1] for r in rows])
    if 0 < label.sum() < label.size:
        assert auroc(score, label) == pytest.approx(roc_auc_score(label, score))
    p = (score + 1000) / 2000
    assert brier(p, label) == pytest.approx(brier_score_loss(label, p, pos_label=1))


@given(scored)
def test_ranking_measures_depend_on_order_alone(rows: list[tuple[int, float, float]]) -> None:
    score, tier1, frontier = (np.array(c, dtype=float) for c in zip(*rows, strict=True))
    curve, moved = (quality_curve(s, tier1, frontier) for s in (score, np.arctan(score / 300) * 7 - 2))
    assert curve == moved
    assert auroc(score, tier1) == auroc(np.exp(score / 500), tier1)


@given(grades)
def test_no_order_beats_the_oracle(rows: list[tuple[float, float]]) -> None:
    tier1, frontier = (np.array(c) for c in zip(*rows, strict=True))
    oracle = quality_curve(tier1 - frontier, tier1, frontier)
    other = quality_curve(np.arange(len(rows)), tier1, frontier)
    for share in np.linspace(0, 1, 11):
        assert oracle.at(share) >= other.at(share) - 1e-9


@given(scored)
def test_curve_does_not_depend_on_the_order_of_rows(rows: list[tuple[int, float, float]]) -> None:
    first, second = (quality_curve(*zip(*r, strict=True)) for r in (rows, rows[::-1]))
    assert np.allclose(first.quality, second.quality)
    assert first.frontier_ratio == second.frontier_ratio


def test_bootstrap_covers_the_mean_and_repeats_with_its_seed() -> None:
    column = np.random.default_rng(1).normal(size=200)
    mean = bootstrap_interval(lambda x: float(x.mean()), [column], n_resamples=300, seed=3)
    again = bootstrap_interval(lambda x: float(x.mean()), [column], n_resamples=300, seed=3)
    assert mean == again
    assert mean.low is not None
    assert mean.high is not None
    assert mean.low < column.mean() < mean.high
    # Width of a 95 % interval of a mean: 2 * 1.96 * sd / sqrt(n).
    assert mean.high - mean.low == pytest.approx(3.92 * column.std() / 200**0.5, rel=0.25)


def test_bootstrap_of_an_undefined_statistic_is_not_measured() -> None:
    assert bootstrap_interval(lambda _: None, [np.zeros(3)], n_resamples=5).value is None
