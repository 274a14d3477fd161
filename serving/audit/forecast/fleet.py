"""How many replicas the arrivals need window by window, rented for the peak all the time or hour by hour."""

import math
from functools import lru_cache

import numpy as np
from pydantic import Field

from routing.records import Record
from serving.audit.forecast.amortisation import HOUR_S
from serving.audit.forecast.assumptions import Assumptions
from serving.audit.forecast.queueing import replicas_for
from serving.audit.traffic.arrivals import Arrivals

LOAD_STEP = 1.01  # loads are rounded up to powers of it, so that few fleets are computed
TYPICAL_WAIT_SLO_UTILISATION = 0.5  # of one to four replicas. Used when the log has no times


class Fleet(Record):
    """The rented replicas. Hours are replica hours over the log's span. Utilisations are busy over rented hours."""

    span_hours: float = Field(gt=0)
    busy_hours: float = Field(ge=0)
    peak_replicas: int = Field(ge=1, description="enough for the busiest window, rented all the time")
    mean_replicas: float = Field(ge=0, description="rented hour by hour, each hour for its busiest window")
    fixed_hours: float
    scaled_hours: float
    fixed_utilisation_ratio: float = Field(ge=0, le=1)
    scaled_utilisation_ratio: float = Field(ge=0, le=1)
    by_window: tuple[tuple[float, int], ...] = Field(description="(seconds since the start, replicas)")


def size_fleet(arrivals: Arrivals, share: float, hit_ratio: float, assumed: Assumptions) -> Fleet | None:
    """The fleet for a share of every window's work. None when the log has too few times.

    share: of the requests that tier 1 works on, kept or drafted in vain. hit_ratio: input tokens found in its cache.
    """
    span_s = arrivals.span_s
    if span_s is None or arrivals.first_s is None:
        return None
    numbers, table = arrivals.table()
    rates = assumed.rates
    work_s = (
        table[:, 1] * (1 - hit_ratio) / rates.prefill_tokens_per_s
        + table[:, 2] / rates.decode_tokens_per_s
        + table[:, 0] * rates.overhead_s
    )
    service_s = float(work_s.sum() / max(table[:, 0].sum(), 1.0))
    width_s = arrivals.width_s
    loads = share * work_s / np.minimum(width_s, span_s)
    needed = np.array([_replicas(float(load), service_s, assumed.slo_wait_s, assumed.slo_late_ratio) for load in loads])
    needed = np.maximum(needed, assumed.min_replicas)
    span_hours, busy_hours = span_s / HOUR_S, float(share * work_s.sum()) / HOUR_S
    first = math.floor(arrivals.first_s / width_s)
    # Each hour is rented for its busiest window. An hour without arrivals keeps the smallest fleet.
    hours = ((numbers - first) * width_s // max(HOUR_S, width_s)).astype(np.int64)
    n_hours = max(int(hours.max()) + 1, math.ceil(span_s / max(HOUR_S, width_s)))
    by_hour = np.full(n_hours, assumed.min_replicas)
    np.maximum.at(by_hour, hours, needed)
    mean = float(by_hour.mean())
    peak = int(needed.max())
    fixed_hours, scaled_hours = peak * span_hours, mean * span_hours
    return Fleet(
        span_hours=span_hours,
        busy_hours=busy_hours,
        peak_replicas=peak,
        mean_replicas=mean,
        fixed_hours=fixed_hours,
        scaled_hours=scaled_hours,
        fixed_utilisation_ratio=min(busy_hours / fixed_hours, 1.0),
        scaled_utilisation_ratio=min(busy_hours / scaled_hours, 1.0),
        by_window=tuple(zip(((numbers - first) * width_s).tolist(), needed.tolist(), strict=True)),
    )


def _replicas(load: float, service_s: float, wait_s: float, late_ratio: float) -> int:
    if load <= 0 or service_s <= 0:
        return 0
    return _cached(math.ceil(math.log(load) / math.log(LOAD_STEP)), service_s, wait_s, late_ratio)


@lru_cache(maxsize=8192)
def _cached(power: int, service_s: float, wait_s: float, late_ratio: float) -> int:
    return replicas_for(LOAD_STEP**power, service_s, wait_s, late_ratio)
