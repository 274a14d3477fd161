"""The sequence of steps stops once the ruling is clear and pays only for what can pay back. One promise covers it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.gate.signal_order import Ruling, highest_threshold, looks_taken, rule

PRICES = (0.0, 0.2, 0.1)

CASES = [
    ([0.9], 0.8, Ruling.ACCEPT),
    ([0.8], 0.8, Ruling.ACCEPT),
    ([0.5], 0.8, Ruling.BUY),
    ([0.15], 0.8, Ruling.REJECT),  # 0.15 / 0.8 can flip at most 19 % of the time, for 20 % of a frontier answer
    ([0.17], 0.8, Ruling.BUY),
    ([0.5, 0.9], 0.8, Ruling.ACCEPT),
    ([0.5, 0.07], 0.8, Ruling.REJECT),
    ([0.5, 0.5], 0.8, Ruling.BUY),
    ([0.5, 0.5, 0.79], 0.8, Ruling.REJECT),
    ([0.5, 0.5, 0.8], 0.8, Ruling.ACCEPT),
    ([1.0], None, Ruling.REJECT),
]


@pytest.mark.parametrize(("ps", "threshold", "ruling"), CASES)
def test_walk_stops_where_the_ruling_is_clear(ps: list[float], threshold: float | None, ruling: Ruling) -> None:
    assert rule(ps, PRICES, threshold) is ruling


probability = st.floats(0, 1)
looks = st.lists(probability, min_size=3, max_size=3)


@given(looks, st.lists(probability, min_size=2, max_size=2), probability)
def test_highest_threshold_is_where_acceptance_begins(ps: list[float], dear: list[float], threshold: float) -> None:
    prices = [0.0, *dear]
    highest = float(highest_threshold(np.array([ps]), prices)[0])
    taken = int(looks_taken(np.array([ps]), prices, threshold)[0])
    accepted = rule(ps[:taken], prices, threshold) is Ruling.ACCEPT
    if abs(highest - threshold) > 1e-9:
        assert accepted == (highest > threshold)


@given(looks, probability, probability)
def test_what_is_accepted_is_accepted_at_every_lower_threshold(ps: list[float], one: float, other: float) -> None:
    low, high = sorted((one, other))

    def accepted(threshold: float) -> bool:
        taken = int(looks_taken(np.array([ps]), PRICES, threshold)[0])
        return rule(ps[:taken], PRICES, threshold) is Ruling.ACCEPT

    assert accepted(low) >= accepted(high)


@given(looks, probability)
def test_free_signals_are_bought_until_one_accepts(ps: list[float], threshold: float) -> None:
    taken = int(looks_taken(np.array([ps]), (0.0, 0.0, 0.0), threshold)[0])
    assert taken == next((n for n, p in enumerate(ps, start=1) if p >= threshold), 3)
