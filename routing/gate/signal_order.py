"""A sequence of ever dearer looks at one draft: accept, reject, or buy the next signal.

At threshold t a look that says p accepts when p >= t. Else the next signal, of price c (a share of the frontier answer
it may save), is worth buying only while p >= c * t: a calibrated p keeps its mean whatever is learned next, so by
Markov's inequality it passes t with probability p / t at most, and p / t < c cannot pay for the signal. What is
accepted at t is accepted at every lower t, so one bound holds for the whole walk.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray


class Ruling(StrEnum):
    """What to do after some looks."""

    ACCEPT = "accept"
    REJECT = "reject"
    BUY = "buy"


def rule(ps: Sequence[float], prices: Sequence[float], threshold: float | None) -> Ruling:
    """Walk over the looks so far. ps: their probabilities, at least one; prices: of each look in the sequence, 0..1.

    threshold None: nothing was promised, so nothing is accepted. prices[0] is not paid: the first look is free.
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
    """The highest threshold at which each row would be accepted, shape (n,); ps: all looks, shape (n, n_looks)."""
    best = np.zeros(len(ps))
    cap = np.full(len(ps), math.inf)
    for number in range(ps.shape[1]):
        best = np.maximum(best, np.minimum(ps[:, number], cap))
        if number + 1 < ps.shape[1] and prices[number + 1] > 0:
            cap = np.minimum(cap, ps[:, number] / prices[number + 1])
    return np.asarray(best)


def looks_taken(ps: NDArray[np.float64], prices: Sequence[float], threshold: float | None) -> NDArray[np.int64]:
    """How many looks each row takes until it is ruled on, 1..n_looks, shape (n,)."""
    taken = np.full(len(ps), ps.shape[1])
    for row, own in enumerate(ps):
        for n in range(1, ps.shape[1] + 1):
            if rule(list(own[:n]), prices, threshold) is not Ruling.BUY:
                taken[row] = n
                break
    return taken
