"""What an attempt costs: worked examples, what is unknown, and the invariants of prices and of shared engine time."""

import random
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from routing.cost.attempt import NOT_BILLED, CostConfig, TokenPrice, attempt_cost, baseline_cost
from routing.cost.shared_clock import SharedClock
from routing.records import AttemptOutcome, Tier, Usage

REPOSITORY = Path(__file__).parents[3]
PRICE = TokenPrice(
    input_usd=3.0, output_usd=15.0, cached_input_usd=0.3, cache_write_usd=3.75, source="list", as_of="2026-01-31"
)
CONFIG = CostConfig(
    frontier={"acme/large": PRICE},
    baseline="acme/large",
    engine_usd_per_hour={Tier.TIER1: 3.6},
    engine_price_source="rent",
)


def frontier_cost(
    usage: Usage | None, outcome: AttemptOutcome = AttemptOutcome.SERVED
) -> tuple[float | None, str | None]:
    return attempt_cost(Tier.FRONTIER, "acme", "large", usage, None, CONFIG, outcome=outcome)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    input_tokens = draw(st.integers(0, 200_000))
    cached = draw(st.integers(0, input_tokens))
    written = draw(st.integers(0, input_tokens - cached))
    return Usage(
        input_tokens=input_tokens,
        output_tokens=draw(st.integers(0, 20_000)),
        cached_tokens=draw(st.sampled_from([cached, None])),
        cache_write_tokens=draw(st.sampled_from([written, None])),
    )


@st.composite
def prices(draw: st.DrawFn) -> TokenPrice:
    dollars = st.floats(0, 100)
    input_usd = draw(dollars)
    return TokenPrice(
        input_usd=input_usd,
        output_usd=draw(dollars),
        cached_input_usd=draw(st.none() | st.floats(0, input_usd)),
        cache_write_usd=draw(st.none() | dollars),
        source="s",
        as_of="2026-01-31",
    )


class TestTokens:
    @pytest.mark.parametrize(
        ("usage", "usd"),
        [
            # 1,000 × 3 + 100 × 15 = 4,500 millionths
            (Usage(input_tokens=1000, output_tokens=100), 0.004500),
            # 200 × 3 + 800 × 0.3 + 100 × 15 = 2,340 millionths
            (Usage(input_tokens=1000, output_tokens=100, cached_tokens=800), 0.002340),
            # 100 × 3 + 200 × 0.3 + 700 × 3.75 + 0 × 15 = 2,985 millionths
            (Usage(input_tokens=1000, output_tokens=0, cached_tokens=200, cache_write_tokens=700), 0.002985),
            (Usage(input_tokens=0, output_tokens=0), 0.0),
        ],
    )
    def test_each_input_token_is_billed_once_as_plain_cached_or_written(self, usage: Usage, usd: float) -> None:
        cost_usd, source = frontier_cost(usage)
        assert cost_usd == pytest.approx(usd)
        assert source == "list (2026-01-31)"

    def test_parts_without_a_price_of_their_own_cost_the_input_price(self) -> None:
        price = TokenPrice(input_usd=2, output_usd=8, source="s", as_of="2026-01-31")
        parted = Usage(input_tokens=1000, output_tokens=10, cached_tokens=600, cache_write_tokens=300)
        assert price.usd(parted) == pytest.approx(price.usd(Usage(input_tokens=1000, output_tokens=10)))

    def test_parts_that_exceed_the_input_never_make_a_cost_negative(self) -> None:
        usage = Usage(input_tokens=10, output_tokens=0, cached_tokens=10, cache_write_tokens=10)
        assert PRICE.usd(usage) == pytest.approx(10 * 0.3e-6 + 10 * 3.75e-6)

    @given(price=prices(), first=usages(), second=usages())
    def test_cost_is_additive(self, price: TokenPrice, first: Usage, second: Usage) -> None:
        together = Usage(
            input_tokens=first.input_tokens + second.input_tokens,
            output_tokens=first.output_tokens + second.output_tokens,
            cached_tokens=(first.cached_tokens or 0) + (second.cached_tokens or 0),
            cache_write_tokens=(first.cache_write_tokens or 0) + (second.cache_write_tokens or 0),
        )
        assert price.usd(together) == pytest.approx(price.usd(first) + price.usd(second))

    @given(price=prices(), usage=usages(), more_input=st.integers(0, 1000), more_output=st.integers(0, 1000))
    def test_more_tokens_never_cost_less(
        self, price: TokenPrice, usage: Usage, more_input: int, more_output: int
    ) -> None:
        more = usage.model_copy(
            update={
                "input_tokens": usage.input_tokens + more_input,
                "output_tokens": usage.output_tokens + more_output,
            }
        )
        assert price.usd(more) >= price.usd(usage) >= 0

    @given(price=prices(), usage=usages())
    def test_a_cached_prompt_never_costs_more_than_an_uncached_one(self, price: TokenPrice, usage: Usage) -> None:
        plain = Usage(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)
        cached = plain.model_copy(update={"cached_tokens": usage.cached_tokens})
        assert price.usd(cached) <= price.usd(plain) * (1 + 1e-9)


class TestUnknown:
    USAGE = Usage(input_tokens=1000, output_tokens=100)

    @pytest.mark.parametrize(("provider", "model"), [("acme", "large-2026-01-31"), ("other", "large"), ("", "")])
    @given(usage=usages())
    def test_unknown_price_is_none_with_no_source_and_never_zero(self, provider: str, model: str, usage: Usage) -> None:
        assert attempt_cost(Tier.FRONTIER, provider, model, usage, None, CONFIG) == (None, None)

    @pytest.mark.parametrize(
        ("asked", "answered", "usd_per_million"),
        [
            ("large", "large", 3.0),
            ("large", "large-2026-01-31", 3.0),
            ("large", "large-20260131", 3.0),
            ("large", "large-0131", 3.0),
            ("small-latest", "small-20260131", 1.0),
            ("large", "large-2025-05-13", 5.0),  # the snapshot has a price of its own
            ("large-2025-05-13", "large-2025-05-13", 5.0),
            ("large-2026-01-31", "large-2026-01-31", None),  # asked for by its own name
            ("large", "large-mini", None),
            ("large", "large-1-20260131", None),
            ("large", "other", None),
        ],
    )
    def test_snapshot_costs_the_price_of_the_name_asked_for(
        self, asked: str, answered: str, usd_per_million: float | None
    ) -> None:
        config = CostConfig(
            frontier={
                "acme/large": PRICE,
                "acme/large-2025-05-13": PRICE.model_copy(update={"input_usd": 5.0}),
                "acme/small-latest": PRICE.model_copy(update={"input_usd": 1.0}),
            }
        )
        usage = Usage(input_tokens=1_000_000, output_tokens=0)
        cost_usd, _ = attempt_cost(Tier.FRONTIER, "acme", answered, usage, None, config, asked_model=asked)
        assert cost_usd == (None if usd_per_million is None else pytest.approx(usd_per_million))

    def test_answer_without_usage_has_a_price_but_no_cost(self) -> None:
        assert frontier_cost(None) == (None, "list (2026-01-31)")

    @pytest.mark.parametrize("outcome", sorted(set(AttemptOutcome) - {AttemptOutcome.FAILED}))
    def test_only_a_failed_call_without_tokens_is_free(self, outcome: AttemptOutcome) -> None:
        assert frontier_cost(None, AttemptOutcome.FAILED) == (0.0, NOT_BILLED)
        assert frontier_cost(None, outcome)[0] is None

    def test_failed_call_without_tokens_is_free_even_when_its_price_is_unknown(self) -> None:
        """No alarm for a provider that refused the call."""
        cost = attempt_cost(Tier.FRONTIER, "acme", "new", None, None, CONFIG, outcome=AttemptOutcome.FAILED)
        assert cost == (0.0, NOT_BILLED)

    def test_failed_call_with_tokens_is_billed(self) -> None:
        """Partial tokens of a cut stream are billed."""
        assert frontier_cost(self.USAGE, AttemptOutcome.FAILED) == frontier_cost(self.USAGE, AttemptOutcome.BROKEN)
        assert frontier_cost(self.USAGE, AttemptOutcome.FAILED)[0] == pytest.approx(0.0045)


class TestEngine:
    USAGE = Usage(input_tokens=1000, output_tokens=100)

    def test_own_tier_costs_its_share_of_busy_seconds(self) -> None:
        # 2.5 s at 3.6 $/h = 0.001 $/s
        assert attempt_cost(Tier.TIER1, "self", "qwen", self.USAGE, 2.5, CONFIG) == (pytest.approx(0.0025), "rent")

    def test_used_engine_time_that_nobody_measured_is_unknown(self) -> None:
        assert attempt_cost(Tier.TIER1, "self", "qwen", self.USAGE, None, CONFIG) == (None, "rent")

    def test_tier_without_an_hourly_price_is_unknown(self) -> None:
        """Price missing, here of an engine."""
        assert attempt_cost(Tier.ROUTER, "self", "qwen", self.USAGE, 2.5, CONFIG) == (None, None)

    @pytest.mark.parametrize("usage", [None, Usage(input_tokens=0, output_tokens=0)])
    def test_attempt_that_never_reached_the_engine_is_free(self, usage: Usage | None) -> None:
        assert attempt_cost(Tier.TIER1, "self", "qwen", usage, None, CONFIG) == (0.0, NOT_BILLED)

    def test_engine_time_without_tokens_is_billed(self) -> None:
        assert attempt_cost(Tier.TIER1, "self", "qwen", None, 1.0, CONFIG)[0] == pytest.approx(0.001)


class TestBaseline:
    def test_tokens_our_own_engine_had_cached_count_as_cached_at_the_frontier(self) -> None:
        served_by_tier1 = Usage(input_tokens=1000, output_tokens=100, cached_tokens=800)
        assert baseline_cost(served_by_tier1, CONFIG) == pytest.approx(0.00234)

    def test_prefix_another_attempt_found_cached_is_warm_at_the_frontier_too(self) -> None:
        escalated = Usage(input_tokens=1000, output_tokens=100, cached_tokens=200, cache_write_tokens=700)
        # 800 warm: the 600 beyond the provider's 200 would not have been written again, which leaves 100 to write.
        # 100 × 3 + 800 × 0.3 + 100 × 3.75 + 100 × 15 = 2,415 millionths
        assert baseline_cost(escalated, CONFIG, warm_tokens=800) == pytest.approx(0.002415)

    @given(usage=usages())
    def test_served_by_the_baseline_itself_saves_nothing(self, usage: Usage) -> None:
        assert baseline_cost(usage, CONFIG) == pytest.approx(frontier_cost(usage)[0])

    @given(usage=usages(), warm=st.integers(0, 300_000), warmer=st.integers(0, 300_000))
    def test_warmer_cache_never_makes_the_baseline_dearer(self, usage: Usage, warm: int, warmer: int) -> None:
        warm, warmer = sorted((warm, warmer))
        dearer, cheaper = (baseline_cost(usage, CONFIG, warm_tokens=tokens) for tokens in (warm, warmer))
        assert dearer is not None
        assert cheaper is not None
        assert 0 <= cheaper <= dearer * (1 + 1e-9)

    @pytest.mark.parametrize(
        ("usage", "config"), [(None, CONFIG), (Usage(input_tokens=1, output_tokens=1), CostConfig())]
    )
    def test_without_an_answer_or_a_baseline_price_it_is_unknown(self, usage: Usage | None, config: CostConfig) -> None:
        assert baseline_cost(usage, config) is None


class TestConfig:
    def test_baseline_without_a_price_stops_the_start_and_is_named(self) -> None:
        with pytest.raises(ValidationError, match="acme/huge"):
            CostConfig(frontier={"acme/large": PRICE}, baseline="acme/huge")

    def test_cached_price_above_the_input_price_is_refused(self) -> None:
        with pytest.raises(ValidationError, match="swapped"):
            TokenPrice(input_usd=0.3, output_usd=15, cached_input_usd=3, source="s", as_of="2026-01-31")

    @pytest.mark.parametrize("usd", [-1.0, float("nan")])
    def test_negative_engine_price_is_refused(self, usd: float) -> None:
        with pytest.raises(ValidationError, match="engine_usd_per_hour"):
            CostConfig(engine_usd_per_hour={Tier.TIER1: usd})

    def test_embedded_profile_prices_its_stand_in_as_a_real_model_and_says_so(self) -> None:
        profile = yaml.safe_load((REPOSITORY / "deploy/profiles/cpu.yaml").read_text(encoding="utf-8"))
        config = CostConfig.model_validate(profile["cost"])
        assert config.baseline is not None
        price = config.frontier[config.baseline]
        assert 0 < price.input_usd < price.output_usd
        assert price.source.startswith("list price of ")


# Arrivals and departures of one engine: for each request, gaps in seconds and how long it stays.
STAYS = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), min_size=1, max_size=20)


def busy_by_union(stays: list[tuple[float, float]]) -> float:
    """Length of the union of the intervals, worked out another way."""
    busy, reach = 0.0, float("-inf")
    for start, end in sorted(stays):
        busy += max(end - max(start, reach), 0.0)
        reach = max(reach, end)
    return busy


def run(stays: list[tuple[float, float]]) -> tuple[SharedClock, list[float]]:
    """Each request's share, after (enter, leave) times in order."""
    clock = SharedClock()
    events = sorted(
        [(start, 0, i) for i, (start, _) in enumerate(stays)] + [(end, 1, i) for i, (_, end) in enumerate(stays)]
    )
    tickets, shares = {}, [0.0] * len(stays)
    for at, leaving, i in events:
        if leaving:
            shares[i] = clock.leave(tickets[i], at)
        else:
            tickets[i] = clock.enter(at)
    return clock, shares


class TestSharedClock:
    def test_two_requests_share_what_they_overlap(self) -> None:
        # a alone 0..1, both 1..3, b alone 3..4: a pays 1 + 2/2, b pays 2/2 + 1
        clock = SharedClock()
        a = clock.enter(0.0)
        b = clock.enter(1.0)
        assert clock.leave(a, 3.0) == pytest.approx(2.0)
        assert clock.leave(b, 4.0) == pytest.approx(2.0)
        assert clock.busy_s(10.0) == pytest.approx(4.0)

    def test_idle_time_is_nobodys(self) -> None:
        clock = SharedClock()
        clock.leave(clock.enter(0.0), 1.0)
        assert clock.leave(clock.enter(100.0), 101.0) == pytest.approx(1.0)
        assert clock.busy_s(500.0) == pytest.approx(2.0)

    @given(stays=STAYS)
    def test_shares_sum_to_the_busy_time_and_are_never_negative(self, stays: list[tuple[float, float]]) -> None:
        intervals = [(start, start + length) for start, length in stays]
        clock, shares = run(intervals)
        assert all(share >= 0 for share in shares)
        assert sum(shares) == pytest.approx(busy_by_union(intervals), abs=1e-9)
        assert clock.busy_s(1000.0) == pytest.approx(busy_by_union(intervals), abs=1e-9)

    @given(stays=STAYS, seed=st.randoms(use_true_random=False))
    def test_the_order_of_simultaneous_requests_does_not_matter(
        self, stays: list[tuple[float, float]], seed: random.Random
    ) -> None:
        intervals = [(start, start + length) for start, length in stays]
        order = list(range(len(intervals)))
        seed.shuffle(order)
        _, shares = run(intervals)
        _, shuffled = run([intervals[i] for i in order])
        assert [shares[i] for i in order] == pytest.approx(shuffled, abs=1e-9)

    @given(stays=STAYS)
    def test_no_request_pays_more_than_its_stay(self, stays: list[tuple[float, float]]) -> None:
        intervals = [(start, start + length) for start, length in stays]
        _, shares = run(intervals)
        assert all(share <= end - start + 1e-9 for share, (start, end) in zip(shares, intervals, strict=True))

    @given(times=st.lists(st.floats(-100, 100), min_size=2, max_size=20))
    def test_time_that_goes_back_counts_as_standing_still(self, times: list[float]) -> None:
        clock = SharedClock()
        ticket = clock.enter(times[0])
        seen = [clock.share_s(ticket, now) for now in times[1:]]
        assert seen == sorted(seen)
        assert seen[-1] == pytest.approx(max(times) - times[0], abs=1e-9)

    def test_share_so_far_is_what_leaving_now_would_cost(self) -> None:
        clock = SharedClock()
        ticket = clock.enter(0.0)
        clock.enter(1.0)
        assert clock.share_s(ticket, 3.0) == pytest.approx(2.0)
        assert clock.leave(ticket, 3.0) == pytest.approx(2.0)
        assert clock.share_s(ticket, 9.0) == pytest.approx(2.0)

    def test_leaving_twice_frees_one_place(self) -> None:
        """A cancelled request may be settled by its `finally` and by whoever cancelled it."""
        clock = SharedClock()
        a, b = clock.enter(0.0), clock.enter(0.0)
        assert clock.leave(a, 2.0) == clock.leave(a, 4.0) == pytest.approx(1.0)
        assert clock.leave(b, 4.0) == pytest.approx(3.0)
