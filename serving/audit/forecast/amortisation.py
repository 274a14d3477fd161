"""What our own hardware costs per request: a rented hour spread over the part of it that was used.

A token price is a price per use. A GPU's price is per hour, used or not. The measured utilisation connects the two, and
leaving it out is the usual mistake. At 5 % utilisation a token costs twenty times its busy-hour price.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from routing.records import Record

HOUR_S = 3600.0
MONTH_HOURS = 730.0  # 365 * 24 / 12


class EngineRent(Record):
    """One replica by the hour: all its GPUs, and what share of the paid time it was busy."""

    usd_per_hour: float = Field(ge=0, description="of the whole replica")
    utilisation_ratio: float = Field(1.0, gt=0, le=1, description="busy seconds over paid seconds, measured")
    source: str = Field("assumed", min_length=1)

    @property
    def usd_per_busy_s(self) -> float:
        """Dollars of one second of work, its share of the idle time included."""
        return self.usd_per_hour / HOUR_S / self.utilisation_ratio

    def idle_usd(self, paid_hours: float) -> float:
        """Dollars paid for nothing in so many rented hours."""
        return self.usd_per_hour * paid_hours * (1 - self.utilisation_ratio)


class EngineRates(Record):
    """How fast one replica works when it is busy with as many requests as it takes: tokens of all of them together."""

    prefill_tokens_per_s: float = Field(gt=0, description="uncached input tokens")
    decode_tokens_per_s: float = Field(gt=0, description="output tokens, summed over the batch")
    overhead_s: float = Field(0.0, ge=0, description="busy seconds a request takes beside its tokens")
    source: str = Field("assumed", min_length=1)

    def busy_s(self, uncached_tokens: float, output_tokens: float, requests: float = 1.0) -> float:
        """Replica seconds for so much work. Linear, so it serves for one request and for a month."""
        return (
            uncached_tokens / self.prefill_tokens_per_s
            + output_tokens / self.decode_tokens_per_s
            + requests * self.overhead_s
        )


def fit_rates(
    uncached_tokens: Sequence[float], output_tokens: Sequence[float], engine_s: Sequence[float], source: str
) -> EngineRates | None:
    """Rates from recorded engine seconds, by least squares. Every argument is of shape (n,).

    The seconds are scaled at the end so that the fitted total equals the measured one, because money is a sum. A term
    that fits best with a negative sign is dropped, and the rest is fitted again. None when the rows do not suffice
    (fewer than 8, or no time in them).
    """
    y = np.asarray(engine_s, dtype=np.float64)
    x = np.column_stack([np.asarray(uncached_tokens, float), np.asarray(output_tokens, float), np.ones(y.size)])
    if y.size < 8 or y.sum() <= 0:
        return None
    scale = np.where(x.mean(axis=0) > 0, x.mean(axis=0), 1.0)
    kept = [column for column in range(3) if x[:, column].any()]
    weights = np.zeros(3)
    while kept:
        found, *_ = np.linalg.lstsq(x[:, kept] / scale[kept], y, rcond=None)
        if (found >= 0).all():
            weights[kept] = found / scale[kept]
            break
        kept.remove(kept[int(np.argmin(found))])
    total = float((x @ weights).sum())
    if total <= 0:
        return None
    weights *= y.sum() / total
    fast = 1e12  # a term of weight 0 takes no time
    return EngineRates(
        prefill_tokens_per_s=1 / weights[0] if weights[0] > 1 / fast else fast,
        decode_tokens_per_s=1 / weights[1] if weights[1] > 1 / fast else fast,
        overhead_s=float(weights[2]),
        source=source,
    )


def router_usd_per_request(rent: EngineRent, rates: EngineRates, input_tokens: float) -> float:
    """Dollars of one score: a prefill of the prompt's edge and one token."""
    return rates.busy_s(input_tokens, 1.0) * rent.usd_per_busy_s
