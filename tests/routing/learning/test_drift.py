"""Drift: nothing on the same distribution, an alarm on a large and sure shift, silence on little evidence."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from routing.learning.drift import DriftConfig, drift, ks_distance, ks_p, psi

CONFIG = DriftConfig()


def normal(n: int, mean: float = 0.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1.0, n)


@pytest.mark.parametrize(
    ("mean", "n", "alarm"),
    [(0.0, 1000, False), (0.1, 100_000, False), (1.0, 1000, True), (1.0, 49, False), (-1.0, 200, True)],
    ids=["same", "sure but tiny", "shifted", "too few", "shifted down"],
)
def test_alarm_needs_a_large_shift_that_is_no_accident(mean: float, n: int, alarm: bool) -> None:
    assert drift("chat", "p", normal(n), normal(n, mean, seed=1), CONFIG).alarm is alarm


def test_too_few_values_are_not_measured() -> None:
    found = drift("chat", "p", normal(1000), normal(10), CONFIG)
    assert (found.psi, found.ks, found.p_same, found.alarm) == (None, None, None, False)


def test_false_alarms_are_rare() -> None:
    alarms = [drift("c", "s", normal(200, seed=i), normal(200, seed=1000 + i), CONFIG).alarm for i in range(200)]
    assert sum(alarms) <= 2


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(60, 400), st.integers(60, 400), st.floats(0, 0.6))
def test_distance_and_chance_are_scipys(seed: int, n: int, m: int, shift: float) -> None:
    a, b = normal(n, seed=seed), normal(m, shift, seed=seed + 1)
    known = stats.ks_2samp(a, b, method="asymp")
    assert ks_distance(a, b) == pytest.approx(known.statistic)
    assert ks_p(ks_distance(a, b), n, m) == pytest.approx(known.pvalue, abs=0.04)


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=50))
def test_same_values_have_not_moved(values: list[float]) -> None:
    same = np.array(values)
    assert psi(same, same) == pytest.approx(0.0, abs=1e-12)
    assert ks_distance(same, same) == 0.0


def test_value_that_was_never_seen_is_no_infinity() -> None:
    assert np.isfinite(psi(np.zeros(100), np.full(100, 5.0)))
