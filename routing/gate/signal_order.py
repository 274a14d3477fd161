"""A sequence of steps, each with a more expensive signal: accept the draft, reject it, or ask for the next signal.

A step (`Look` in the manifest) gives a probability p that the draft is good enough. At threshold t it accepts when
p >= t. The next signal costs a share c of the frontier answer that it may save. It is asked for only while p >= c * t.
The reason: a calibrated p keeps its mean, whatever is learned next. By Markov's inequality it passes t with probability
p / t at most, and p / t < c cannot pay for the signal. What is accepted at t is accepted at every lower t, so one bound
holds for the whole sequence.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Ruling(StrEnum):
    """What to do after some steps. BUY: ask for the next signal."""

    ACCEPT = "accept"
    REJECT = "reject"
    BUY = "buy"


def rule(ps: Sequence[float], prices: Sequence[float], threshold: float | None) -> Ruling:
    """Rule on the steps taken so far.

    ps: their probabilities, at least one. prices: of each step in the sequence, 0..1. The first step is free, so
    prices[0] does not count. threshold None: no promise was made, so nothing is accepted.
    """
    if threshold is None:
        return Ruling.REJECT
    for number, p in enumerate(ps):
        if p >= threshold:
            return Ruling.ACCEPT
        if number + 1 == len(prices) or p < prices[number + 1] * threshold:
            return Ruling.REJECT
    return Ruling.BUY


def highest_threshold(ps: NDArray[np.float64], prices: Sequence[float]) -> NDArray[np.float64]:
    """The highest threshold at which each row would be accepted, shape (n,). ps: all steps, shape (n, n_looks)."""
    best = np.zeros(len(ps))
    cap = np.full(len(ps), math.inf)
    for number in range(ps.shape[1]):
        best = np.maximum(best, np.minimum(ps[:, number], cap))
        if number + 1 < ps.shape[1] and prices[number + 1] > 0:
            cap = np.minimum(cap, ps[:, number] / prices[number + 1])
    return np.asarray(best)


def looks_taken(ps: NDArray[np.float64], prices: Sequence[float], threshold: float | None) -> NDArray[np.int64]:
    """How many steps each row takes until it is ruled on, 1..n_looks, shape (n,)."""
    taken = np.full(len(ps), ps.shape[1])
    for row, own in enumerate(ps):
        for n in range(1, ps.shape[1] + 1):
            if rule(list(own[:n]), prices, threshold) is not Ruling.BUY:
                taken[row] = n
                break
    return taken
