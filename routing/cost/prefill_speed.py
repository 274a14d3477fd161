"""How many seconds an engine spends on one prompt token, read out of the ledger's own rows.

This is what a prefix-cache hit saves. The seconds that were not spent cannot be measured.
"""

import math

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from routing.cost.attempt import SELF_PROVIDER
from routing.records import Record, RequestRecord, Tier

Floats = NDArray[np.float64]

MIN_FIT_ROWS = 30  # attempts of one engine before a speed is read out of them


class PrefillSpeed(Record):
    """Busy seconds that one uncached prompt token costs an engine, read out of the ledger's own rows."""

    tier: Tier
    model: str
    s_per_token: float = Field(gt=0)
    n_attempts: int


class PrefillFit:
    """Least squares of engine seconds on (1, uncached prompt tokens, output tokens), per engine, in one pass."""

    def __init__(self) -> None:
        self._moments: dict[tuple[Tier, str], tuple[int, Floats]] = {}

    def add(self, record: RequestRecord) -> None:
        """Take every attempt of our own engines whose tokens and seconds were both measured."""
        for attempt in record.attempts:
            usage = attempt.usage
            if attempt.provider != SELF_PROVIDER or attempt.engine_s is None or usage is None:
                continue
            if usage.cached_tokens is None or usage.estimated:
                continue
            row = np.array([1.0, usage.input_tokens - usage.cached_tokens, usage.output_tokens, attempt.engine_s])
            self.add_moments(attempt.tier, attempt.model, 1, np.outer(row, row))

    def add_moments(self, tier: Tier, model: str, n: int, moments: Floats) -> None:
        """Take n attempts at once: the sum of the outer products of their rows (1, uncached, output, seconds)."""
        known, sums = self._moments.get((tier, model), (0, np.zeros((4, 4))))
        self._moments[tier, model] = (known + n, sums + moments)

    def speeds(self) -> tuple[PrefillSpeed, ...]:
        """Engines with a clear answer: enough rows, prompts of different lengths, a positive price of a token."""
        return tuple(
            PrefillSpeed(tier=tier, model=model, s_per_token=slope, n_attempts=n)
            for (tier, model), (n, moments) in sorted(self._moments.items())
            if (slope := _prefill_slope(n, moments)) is not None
        )


def _prefill_slope(n: int, moments: Floats) -> float | None:
    if n < MIN_FIT_ROWS:
        return None
    centred = moments[1:, 1:] - np.outer(moments[0, 1:], moments[0, 1:]) / n  # uncached, output, seconds
    uncached, output, both = centred[0, 0], centred[1, 1], centred[0, 1]
    if uncached <= 1e-9 * moments[1, 1]:
        return None  # all prompts are equally long
    if output <= 1e-9 * moments[2, 2]:  # all answers are: a router's one token
        slope = centred[0, 2] / uncached
    else:
        determinant = uncached * output - both**2
        if determinant <= 1e-6 * uncached * output:
            return None  # long prompts get long answers: nobody can tell them apart
        slope = (centred[0, 2] * output - centred[1, 2] * both) / determinant
    return float(slope) if math.isfinite(slope) and slope > 0 else None
