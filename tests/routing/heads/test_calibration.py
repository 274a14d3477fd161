"""Probabilities that mean what they say, and thresholds that keep their promise on few labels."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta

from routing.heads.calibration import (
    ERROR_RATE,
    bad_ratio_for,
    choose_threshold,
    choose_thresholds,
    clopper_pearson_upper,
    fit_calibration,
    labels_needed,
    most_events,
    sigmoid,
)
from routing.learning.quality import ece


def rows(n: int, seed: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Scores whose log odds differ by 2 between two categories."""
    rng = np.random.default_rng(seed)
    score = rng.normal(size=n)
    category = rng.integers(0, 2, n)
    happened = rng.random(n) < sigmoid(1.5 * score + 2.0 * category - 1)
    return score, happened.astype(float), ["easy" if c else "hard" for c in category]


def test_calibrated_probabilities_match_what_happens_in_each_category() -> None:
    calibration = fit_calibration(*rows(4000, seed=1))
    score, happened, categories = rows(20_000, seed=2)
    p = calibration.p_all(score, categories)
    for name in ("easy", "hard"):
        mine = np.array([c == name for c in categories])
        assert ece(p[mine], happened[mine]) <= 0.03


def test_few_labels_of_a_category_barely_move_it() -> None:
    score, happened, categories = rows(2000, seed=3)
    few = fit_calibration(np.append(score, [0.0] * 3), np.append(happened, [1.0] * 3), [*categories, *["new"] * 3])
    assert 0 < few.offsets["new"] < 0.3
    assert few.n_labels["new"] == 3


def test_unknown_category_gets_the_common_curve() -> None:
    calibration = fit_calibration(*rows(500, seed=4))
    assert calibration.p(0.3, "never seen") == calibration.model_copy(update={"offsets": {}}).p(0.3, "easy")
    assert "never seen" not in calibration.n_labels


def test_backward_score_is_ignored_rather_than_inverted() -> None:
    score, happened, categories = rows(500, seed=5)
    assert fit_calibration(-score, happened, categories).slope == 0.0


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_sided_labels_stay_short_of_certainty(label: float) -> None:
    p = fit_calibration(np.linspace(0, 1, 20), np.full(20, label), ["a"] * 20).p(0.5, "a")
    assert 0 < p < 1
    assert abs(p - label) < 0.1


def test_no_rows_cannot_be_calibrated() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        fit_calibration(np.zeros(0), np.zeros(0), [])


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.floats(0.001, 0.4))
def test_clopper_pearson_agrees_with_the_beta_quantile(case: tuple[int, int], error_rate: float) -> None:
    k, n = case
    exact = 1.0 if k == n else float(beta.ppf(1 - error_rate, k + 1, n - k))
    assert clopper_pearson_upper(k, n, error_rate) == pytest.approx(exact, abs=1e-6)


@given(st.integers(1, 500), st.floats(0.005, 0.5), st.floats(0.001, 0.2))
def test_most_events_is_the_last_count_whose_bound_holds(n: int, target: float, error_rate: float) -> None:
    k = most_events(n, target, error_rate)
    if k >= 0:
        assert clopper_pearson_upper(k, n, error_rate) <= target + 1e-6
    if k + 1 <= n:
        assert clopper_pearson_upper(k + 1, n, error_rate) > target - 1e-6


@given(st.floats(0.005, 0.5), st.floats(0.001, 0.2))
def test_labels_needed_is_the_first_count_that_suffices(target: float, error_rate: float) -> None:
    n = labels_needed(target, error_rate)
    assert most_events(n, target, error_rate) >= 0
    assert n <= 1 or most_events(n - 1, target, error_rate) < 0


def test_threshold_by_hand() -> None:
    # 100 labels, target 10 %, error 5 %: P(X <= 4 | 100, 0.1) = 0.024 <= 0.05 < P(X <= 5) = 0.058, so 4 bad may show.
    assert most_events(100, 0.10, 0.05) == 4
    p = np.linspace(1, 0.01, 100)
    bad = np.zeros(100)
    bad[[10, 20, 30, 40, 50]] = 1
    found = choose_threshold("a", p, bad, 0.10, 0.05)
    assert found.threshold == pytest.approx(p[49])
    assert (found.shown_ratio, found.bad_shown_ratio) == (0.5, 0.04)
    assert found.good_lost_ratio == pytest.approx(0.49)
    assert found.bad_shown_bound <= 0.10


def test_equal_scores_are_shown_together_or_not_at_all() -> None:
    found = choose_threshold("a", np.full(200, 0.7), np.repeat([1.0, 0.0], 100), 0.1, 0.05)
    assert found.threshold is None
    assert found.shown_ratio == 0


def test_too_few_labels_go_to_the_frontier_and_say_how_many_are_missing() -> None:
    found = choose_threshold("a", np.full(20, 0.99), np.zeros(20), 0.02, 0.05)
    assert found.threshold is None
    assert found.more_labels_needed == math.ceil(math.log(0.05) / math.log(0.98)) - 20
    assert choose_threshold("a", np.zeros(0), np.zeros(0), 0.02, 0.05).more_labels_needed == 149


def test_more_categories_ask_for_more_labels() -> None:
    p, bad = np.full(100, 0.9), np.zeros(100)
    alone = choose_thresholds(p, bad, ["a"] * 100, {"a": 0.04})
    among = choose_thresholds(p, bad, ["a"] * 100, {"a": 0.04, "b": 0.04, "c": 0.04})
    assert alone["a"].threshold is not None
    assert among["a"].threshold is None
    assert among["b"].n_labels == 0


def test_full_quality_allows_no_bad_draft() -> None:
    assert bad_ratio_for(1.0, 0.8) == 0
    assert choose_threshold("a", np.full(10_000, 1.0), np.zeros(10_000), 0.0, 0.05).threshold is None


def test_promise_holds_in_95_of_100_resamples() -> None:
    rng = np.random.default_rng(7)
    score = rng.normal(size=3000)
    p = sigmoid(score)
    bad = (rng.random(3000) > p).astype(float)
    kept = 0
    for _ in range(300):
        sample = rng.integers(0, 3000, 400)
        found = choose_threshold("a", p[sample], bad[sample], 0.1, ERROR_RATE)
        shown = p >= (found.threshold if found.threshold is not None else math.inf)
        kept += float(np.mean(shown * bad)) <= 0.1
    assert kept >= 0.95 * 300


def test_a_score_that_means_nothing_at_its_top_is_bent_down() -> None:
    """Platt's curve must rise to 1 with the score. Here the truth stays at 0.7 from the middle on."""
    rng = np.random.default_rng(8)
    score = rng.uniform(-3, 3, 6000)
    happened = (rng.random(6000) < np.minimum(sigmoid(2 * score), 0.7)).astype(float)
    calibration = fit_calibration(score[:4000], happened[:4000], ["a"] * 4000)
    p = calibration.p_all(score[4000:], ["a"] * 2000)
    assert ece(p, happened[4000:]) <= 0.03
    straight = calibration.model_copy(update={"curve_platt": (), "curve_ratio": ()})
    assert ece(straight.p_all(score[4000:], ["a"] * 2000), happened[4000:]) > 0.04


@given(st.integers(0, 1000), st.integers(2, 400))
def test_probability_grows_with_the_score(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    calibration = fit_calibration(rng.normal(size=n), (rng.random(n) < 0.4).astype(float), ["a"] * n)
    p = calibration.p_all(np.linspace(-4, 4, 50), ["a"] * 50)
    assert np.all(np.diff(p) >= 0)
    assert np.all((p >= 0) & (p <= 1))


def test_categories_with_too_few_labels_share_one_promise() -> None:
    """500 labels prove 2 % alone, even with a bad draft shown. Three times 120 do not, and do together."""
    names = ["big"] * 500 + ["a"] * 120 + ["b"] * 120 + ["c"] * 120
    p, bad = np.linspace(1, 0, len(names)), np.zeros(len(names))
    targets = dict.fromkeys(("big", "a", "b", "c"), 0.02)
    apart = choose_thresholds(p, bad, names, targets)
    assert [apart[c].threshold is None for c in targets] == [False, True, True, True]
    shared = choose_thresholds(p, bad, names, targets, together=True)
    assert [shared[c].together_with for c in targets] == [(), *[("a", "b", "c")] * 3]
    assert shared["a"].n_labels == 360
    assert len({shared[c].threshold for c in ("a", "b", "c")}) == 1
    assert shared["a"].threshold is not None


def test_category_that_could_show_no_bad_draft_at_all_shares_a_promise() -> None:
    names, targets = ["just"] * 300 + ["few"] * 100, dict.fromkeys(("just", "few"), 0.02)
    shared = choose_thresholds(np.linspace(1, 0, 400), np.zeros(400), names, targets, together=True)
    assert labels_needed(0.02, 0.015) < 300
    assert shared["just"].together_with == ("just", "few")


def test_shared_promise_holds_over_the_common_traffic() -> None:
    """Over 500 label sets the bad drafts shown stay within the target in 95 % and more."""
    rng = np.random.default_rng(0)
    n, kept = 450, 0
    for _ in range(500):
        names = rng.choice(["a", "b", "c"], n)
        p = rng.random(n)
        found = choose_thresholds(
            p, (rng.random(n) < 1 - p).astype(float), list(names), dict.fromkeys("abc", 0.03), together=True
        )
        threshold = found["a"].threshold
        # Of uniform p, the bad drafts above t are the integral of 1 - p from t to 1.
        kept += threshold is None or (1 - threshold) ** 2 / 2 <= 0.03
    assert kept >= 475
