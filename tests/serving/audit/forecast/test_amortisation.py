"""Own hardware per request: rent over utilisation, and rates found again from booked seconds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.audit.forecast.amortisation import MONTH_HOURS, EngineRates, EngineRent, fit_rates, router_usd_per_request

RATES = EngineRates(prefill_tokens_per_s=20_000, decode_tokens_per_s=2_500)


def test_busy_second_carries_the_idle_time() -> None:
    # $3.60 an hour is a tenth of a cent a second. Busy a quarter of the time, each busy second pays for four.
    assert EngineRent(usd_per_hour=3.6, utilisation_ratio=0.25).usd_per_busy_s == pytest.approx(0.004)


@given(st.floats(0.1, 50), st.floats(0.01, 1), st.floats(1, 10_000))
def test_busy_and_idle_dollars_are_the_rent(usd_per_hour: float, utilisation: float, hours: float) -> None:
    rent = EngineRent(usd_per_hour=usd_per_hour, utilisation_ratio=utilisation)
    unloaded = EngineRent(usd_per_hour=usd_per_hour)
    busy_usd = hours * 3600 * utilisation * unloaded.usd_per_busy_s
    assert busy_usd + rent.idle_usd(hours) == pytest.approx(usd_per_hour * hours)
    assert hours * 3600 * utilisation * rent.usd_per_busy_s == pytest.approx(usd_per_hour * hours)


def test_router_at_a_hundredth_of_a_cent_holds_only_while_the_gpu_is_busy() -> None:
    """A 1-3B router at about $0.0001 a request: 1,000 prompt tokens at 40,000 tokens/s on a $1.50 GPU.

    The claim is true of a GPU that is about 10 % busy (25.2 ms of $1.50 an hour are $0.0000105, and over 0.1
    that is $0.000105). It is too optimistic for a small service. A router with a GPU of its own that scores
    10,000 requests a month costs 11 cents a request, a thousand times the claim. So at low volume it must share tier
    1's GPU.
    """
    rates = EngineRates(prefill_tokens_per_s=40_000, decode_tokens_per_s=5_000)
    busy = EngineRent(usd_per_hour=1.5, utilisation_ratio=0.1)
    assert router_usd_per_request(busy, rates, 1000) == pytest.approx(0.0001, rel=0.06)
    month_usd = 1.5 * MONTH_HOURS
    assert month_usd / 10_000 == pytest.approx(0.11, rel=0.01)
    used_s = 10_000 * rates.busy_s(1000, 1)
    rare = EngineRent(usd_per_hour=1.5, utilisation_ratio=used_s / (MONTH_HOURS * 3600))
    assert router_usd_per_request(rare, rates, 1000) == pytest.approx(month_usd / 10_000)


@given(st.floats(100, 50_000), st.floats(10, 5_000), st.floats(0, 0.2), st.integers(0, 2**32 - 1))
def test_rates_are_found_again_from_booked_seconds(prefill: float, decode: float, overhead: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    true = EngineRates(prefill_tokens_per_s=prefill, decode_tokens_per_s=decode, overhead_s=overhead)
    uncached, output = random.integers(1, 4000, 60), random.integers(1, 600, 60)
    seconds = [true.busy_s(i, o) for i, o in zip(uncached, output, strict=True)]
    found = fit_rates(uncached.tolist(), output.tolist(), seconds, "test")
    assert found is not None
    assert found.busy_s(1000, 100) == pytest.approx(true.busy_s(1000, 100), rel=1e-6)


def test_fitted_rates_give_the_measured_total_also_when_the_rows_are_noisy() -> None:
    random = np.random.default_rng(7)
    uncached, output = random.integers(1, 400, 50), random.integers(1, 60, 50)
    seconds = random.uniform(0.01, 2, 50)
    found = fit_rates(uncached.tolist(), output.tolist(), seconds.tolist(), "test")
    assert found is not None
    assert found.busy_s(uncached.sum(), output.sum(), 50) == pytest.approx(seconds.sum())


@pytest.mark.parametrize("seconds", [[0.1] * 7, [0.0] * 20])
def test_rows_that_cannot_tell_give_no_rates(seconds: list[float]) -> None:
    assert fit_rates([100.0] * len(seconds), [10.0] * len(seconds), seconds, "test") is None
