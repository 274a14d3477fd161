"""The tiered bill: its layers by hand, its invariants, and the field's own arithmetic with what it leaves out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.cost.attempt import TokenPrice
from routing.records import Usage
from serving.audit.forecast.amortisation import MONTH_HOURS, EngineRates, EngineRent
from serving.audit.forecast.stack_cost import TieredMix, Traffic, shadow_ratio_for, stack_cost

RATES = EngineRates(prefill_tokens_per_s=10_000, decode_tokens_per_s=1_000)
RENT = EngineRent(usd_per_hour=3.6)
TRAFFIC = Traffic(requests=1000, input_tokens=1e6, output_tokens=2e5, frontier_usd=10.0, warm_discount_usd=2.0)


def test_layers_by_hand() -> None:
    # 1e6/10,000 + 2e5/1,000 = 300 s of work at $0.001: 30 cents for everything.
    cost = stack_cost(TRAFFIC, TieredMix(kept_ratio=0.7, rejected_ratio=0.2, shadow_ratio=0.1), RENT, RATES, 0.0001)
    assert cost.router_usd == pytest.approx(0.10)
    assert cost.drafts_usd == pytest.approx(0.21)
    assert cost.gate_waste_usd == pytest.approx(0.06)
    # Three tenths of a cold bill of $12, less three tenths of the three tenths of the discount of $2.
    assert cost.frontier_usd == pytest.approx(0.3 * 12 - 0.3 * 0.3 * 2)
    assert cost.shadow_usd == pytest.approx(0.7 * 0.1 * 12)
    assert cost.busy_s == pytest.approx(270)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_bill_is_linear_in_requests_and_never_negative(kept: float, part: float, hit: float) -> None:
    mix = TieredMix(kept_ratio=kept, rejected_ratio=(1 - kept) * part, shadow_ratio=0.02)
    once = stack_cost(TRAFFIC, mix, RENT, RATES, 0.0001, hit)
    thrice = stack_cost(TRAFFIC.scaled(requests=3), mix, RENT, RATES, 0.0001, hit)
    assert thrice.total_usd == pytest.approx(3 * once.total_usd)
    assert min(once.router_usd, once.drafts_usd, once.gate_waste_usd, once.frontier_usd, once.shadow_usd) >= 0


def test_all_frontier_is_todays_bill_and_the_router_on_top() -> None:
    cost = stack_cost(TRAFFIC, TieredMix(kept_ratio=0.0), RENT, RATES, 0.0001)
    assert cost.total_usd == pytest.approx(TRAFFIC.frontier_usd + 0.1)


def test_shares_of_more_than_everything_are_refused() -> None:
    with pytest.raises(ValueError, match="more than all"):
        stack_cost(TRAFFIC, TieredMix(kept_ratio=0.8, rejected_ratio=0.3), RENT, RATES, 0.0)


@given(st.floats(0.01, 100), st.floats(0.01, 1))
def test_shadow_share_spends_its_budget_and_no_more(budget_usd: float, kept: float) -> None:
    share = shadow_ratio_for(budget_usd, TRAFFIC, kept)
    spent = stack_cost(TRAFFIC, TieredMix(kept_ratio=kept, shadow_ratio=share), RENT, RATES, 0.0).shadow_usd
    assert spent <= budget_usd * (1 + 1e-9)
    assert share == 1.0 or spent == pytest.approx(budget_usd)


def test_support_desk_330x_is_right_arithmetic_on_a_price_that_nobody_pays() -> None:
    """One user with 10,000 calls a month of 500 tokens: $25,000 or $5,000 of tokens against 50 GPU hours at $0.50-1.50.

    25,000 / 75 is the 330x of the field. It is too optimistic in three ways. $5 per 1,000 tokens is $5,000 per million,
    where list prices of 2026 are single dollars. 50 hours assume that the GPU is handed back between the calls, but a
    service that may be called at any time pays for all 730. And the 50 hours run at 28 tokens/s, so the same GPU would
    serve hundreds of users: the ratio comes from the volume that fills it, not from one user.
    """
    tokens = 10_000 * 500
    seat_usd = {per_1k: tokens / 1000 * per_1k for per_1k in (5, 1)}
    gpu_usd = {per_hour: 50 * per_hour for per_hour in (0.5, 1.5)}
    assert seat_usd == {5: 25_000, 1: 5_000}
    assert gpu_usd == {0.5: 25, 1.5: 75}
    assert seat_usd[5] / gpu_usd[1.5] == pytest.approx(330, rel=0.02)
    assert seat_usd[1] / gpu_usd[1.5] == pytest.approx(67, rel=0.01)

    opus = TokenPrice(input_usd=4, output_usd=20, source="list price of Claude Opus 5.5", as_of="2026-09-23")
    list_usd = 10_000 * opus.usd(Usage(input_tokens=400, output_tokens=100))
    assert list_usd == pytest.approx(36)
    assert list_usd / gpu_usd[1.5] < 0.5  # at a list price one user's GPU hours cost twice its tokens
    assert list_usd / (MONTH_HOURS * 1.5) == pytest.approx(1 / 30, rel=0.02)  # and the GPU that stays up, thirty times
    assert tokens / (50 * 3600) == pytest.approx(27.8, abs=0.1)


def test_multiplied_savings_are_larger_than_the_bill_that_they_can_reach() -> None:
    """$0.10 a request -> routing keeps 70 % -> caching -> kernels, each 'another 2x'.

    Multiplied: 0.10 * 0.3 * 0.5 * 0.5 = $0.0075, 13x. But caching and kernels work on tier 1's part of the bill alone,
    and after routing the frontier's three cents are nearly all of it. What is left to save there is the escalation
    rate. A factor may only be multiplied with what it acts on.
    """
    multiplied_usd = 0.10 * 0.3 * 0.5 * 0.5
    assert multiplied_usd == pytest.approx(0.0075)

    # The same request in parts: 4,000 + 500 tokens, tier 1 at 10,000 and 1,000 tokens/s of a $3.60 GPU: $0.0009.
    request = Traffic(requests=1, input_tokens=4000, output_tokens=500, frontier_usd=0.10)
    mix = TieredMix(kept_ratio=0.7, rejected_ratio=0.1)
    routed = stack_cost(request, mix, RENT, RATES, 0.0001)
    cached = stack_cost(request, mix, RENT, RATES, 0.0001, hit_ratio=0.5)
    twice_as_fast = EngineRates(prefill_tokens_per_s=20_000, decode_tokens_per_s=2_000)
    kernels = stack_cost(request, mix, RENT, twice_as_fast, 0.0001, hit_ratio=0.5)
    assert routed.total_usd == pytest.approx(0.03082, rel=1e-3)  # the 70 % that routing promised
    assert cached.total_usd / routed.total_usd > 0.99  # not half of it
    assert kernels.total_usd / routed.total_usd > 0.98  # not a quarter
    assert kernels.total_usd > 4 * multiplied_usd
