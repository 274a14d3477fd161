"""routing/replicas/load.py: rates, queues and shares are measured while running, and every request counts once."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.replicas.load import (
    LOAD_HALF_LIFE_S,
    RATE_HALF_LIFE_REQUESTS,
    Arrivals,
    DecayingSum,
    PrefillRate,
    ReplicaLoad,
    ReplicaSpeed,
    UnseenWork,
)


def test_decaying_sum_halves_every_half_life() -> None:
    total = DecayingSum(10.0)
    assert total.value(5.0) == 0.0
    total.add(8.0, now=0.0)
    assert total.value(10.0) == pytest.approx(4.0)
    total.add(1.0, now=20.0)
    assert total.value(20.0) == pytest.approx(3.0)
    assert total.value(19.0) == pytest.approx(3.0), "a late clock takes nothing back"


@given(st.floats(100, 1e5), st.floats(0, 0.2), st.integers(0, 99))
def test_prefill_rate_and_overhead_are_found(rate: float, overhead_s: float, seed: int) -> None:
    rng, fit = random.Random(seed), PrefillRate()
    for _ in range(12 * RATE_HALF_LIFE_REQUESTS):
        tokens = rng.randrange(int(rate / 20) + 1, int(rate * 2) + 2)
        fit.observe(tokens, overhead_s + tokens / rate)
    found_overhead_s, found_rate = fit.fit()
    assert found_rate == pytest.approx(rate, rel=0.02)
    assert found_overhead_s == pytest.approx(overhead_s, abs=0.02)


def test_prompts_of_one_length_give_the_plain_ratio() -> None:
    fit = PrefillRate(prior_tokens_per_s=10.0)
    for _ in range(3000):
        fit.observe(1000, 0.5)
    assert fit.fit() == (0.0, pytest.approx(2000.0, rel=0.01))


def test_rate_follows_a_replica_that_became_slower() -> None:
    rng, fit = random.Random(0), PrefillRate()
    for rate in (10_000.0, 2_000.0):
        for _ in range(1500):
            tokens = rng.randrange(100, 5000)
            fit.observe(tokens, tokens / rate)
    assert fit.tokens_per_s == pytest.approx(2_000.0, rel=0.05)


def test_impossible_observations_are_ignored() -> None:
    fit = PrefillRate()
    for tokens, seconds in ((0, 1.0), (100, 0.0), (100, -1.0)):
        fit.observe(tokens, seconds)
    assert not fit.measured


def test_what_a_replica_is_sent_does_not_change_how_fast_it_looks() -> None:
    """Each request costs 0.1 s and 1 s per 2,000 tokens. One replica gets cached prompts, the other new ones."""
    tier = PrefillRate()
    cached, new = ReplicaSpeed(tier), ReplicaSpeed(tier)
    for _ in range(100):
        cached.observe(40, 0.1 + 40 / 2000)
        new.observe(1000, 0.1 + 1000 / 2000)
    assert cached.tokens_per_s == pytest.approx(new.tokens_per_s, rel=0.05)
    assert new.tokens_per_s == pytest.approx(2000, rel=0.05)


def test_replica_that_takes_longer_for_the_same_work_is_slower() -> None:
    tier = PrefillRate()
    fast, slow = ReplicaSpeed(tier), ReplicaSpeed(tier)
    for number in range(200):
        tokens = 100 + number % 7 * 300
        fast.observe(tokens, tokens / 4000)
        slow.observe(tokens, tokens / 1000)
    assert 3 < fast.tokens_per_s / slow.tokens_per_s < 4  # some of it is always put down to chance
    for number in range(200):  # and is believed when it has recovered
        slow.observe(100 + number % 7 * 300, (100 + number % 7 * 300) / 4000)
        fast.observe(100 + number % 7 * 300, (100 + number % 7 * 300) / 4000)
    assert fast.tokens_per_s / slow.tokens_per_s == pytest.approx(1, rel=0.15)


def test_chance_makes_no_replica_slow() -> None:
    """Alike replicas whose every prompt takes between half and twice as long: within a few per cent of each other."""
    tier, rng = PrefillRate(), random.Random(0)
    one, other = ReplicaSpeed(tier), ReplicaSpeed(tier)
    furthest = 1.0
    for _ in range(400):
        for replica in (one, other):
            replica.observe(200, 0.1 * 2 ** rng.uniform(-1, 1))
        ratio = one.tokens_per_s / other.tokens_per_s
        furthest = max(furthest, ratio, 1 / ratio)
    assert furthest < 1.15


def test_slow_first_prompts_do_not_mark_a_replica_as_slow() -> None:
    """An engine compiles and allocates while it answers them. Whoever had more of them is as fast as the others."""
    tier = PrefillRate()
    lucky, unlucky = ReplicaSpeed(tier), ReplicaSpeed(tier)
    for number in range(16):
        lucky.observe(200, 0.1)
        unlucky.observe(200, 3.0 if number == 0 else 0.1)
    assert unlucky.tokens_per_s > lucky.tokens_per_s * 0.8


def test_new_replica_is_as_fast_as_its_tier() -> None:
    tier = PrefillRate()
    ReplicaSpeed(tier).observe(500, 1.0)
    assert ReplicaSpeed(tier).tokens_per_s == tier.tokens_per_s


def loaded() -> ReplicaLoad:
    return ReplicaLoad(PrefillRate(1000.0))


def test_wait_is_the_work_booked_and_runs_off_with_time() -> None:
    load = loaded()
    assert load.wait_s(0.0) == 0.0
    assert load.book("a", 3000, 2000, now=0.0) == pytest.approx(2.0)
    load.book("b", 1000, 1000, now=1.0)
    assert load.wait_s(1.0) == pytest.approx(2.0)
    assert load.wait_s(9.0) == 0.0


def test_booking_twice_counts_once() -> None:
    load = loaded()
    load.book("a", 2000, 2000, now=0.0)
    assert load.book("a", 2000, 2000, now=0.0) == 0.0
    assert (load.wait_s(0.0), load.outstanding) == (pytest.approx(2.0), 1)
    load.prefilled("a", now=2.0)
    assert load.book("a", 2000, 2000, now=2.0) == 0.0
    assert (load.waiting, load.outstanding) == (0, 1)


def test_first_token_corrects_the_queue() -> None:
    """The prior said one second each. The first took four, so the second is expected to take longer than a second."""
    load = loaded()
    load.book("a", 1000, 1000, now=0.0)
    load.book("b", 1000, 1000, now=0.0)
    load.prefilled("a", now=4.0)
    assert load.wait_s(4.0) == pytest.approx(1000 / load.speed.tokens_per_s)
    assert load.wait_s(4.0) > 2.0


@pytest.mark.parametrize("end", ["cancelled in the queue", "cancelled while decoding", "completed"])
def test_release_frees_everything(end: str) -> None:
    """A request that ends in any phase leaves nothing behind."""
    load = loaded()
    load.book("a", 1000, 1000, now=0.0)
    if end != "cancelled in the queue":
        load.prefilled("a", now=1.0)
    load.release("a", now=1.0)
    load.release("a", now=1.0)
    load.prefilled("a", now=1.5)
    assert (load.wait_s(1.5), load.outstanding, load.waiting) == (0.0, 0, 0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["book", "prefilled", "release"]), st.integers(0, 5), st.floats(0, 2)), max_size=80
    )
)
def test_queue_never_goes_below_zero_and_ends_empty(steps: list[tuple[str, int, float]]) -> None:
    load, now = loaded(), 0.0
    for name, request, gap_s in steps:
        now += gap_s
        if name == "book":
            load.book(str(request), 500 * (request + 1), 500 * request + 1, now)
        else:
            getattr(load, name)(str(request), now)
        assert load.wait_s(now) >= 0
        assert 0 <= load.utilization(now) <= 1
        assert 0 <= load.waiting <= load.outstanding <= 6
        assert load.speed.tokens_per_s > 0
    for request in range(6):
        load.release(str(request), now)
    assert (load.outstanding, load.wait_s(now + 10.0)) == (0, 0.0)


def test_utilization_is_the_share_of_time_in_prefill() -> None:
    load, now = loaded(), 0.0
    assert load.utilization(0.0) == 0.0
    while now < 3 * LOAD_HALF_LIFE_S:
        load.book(str(now), 1000, 1000, now)
        load.prefilled(str(now), now + 1.0)
        load.release(str(now), now + 1.0)
        now += 4.0
    assert load.utilization(now) == pytest.approx(0.25, abs=0.01)
    assert load.utilization(now + LOAD_HALF_LIFE_S) == pytest.approx(0.125, abs=0.03)


def test_state_carries_what_was_measured_and_none_before() -> None:
    load = loaded()
    assert load.state("a", 0.0, 16, 4).prefill_tokens_per_s is None
    load.book("x", 1000, 1000, now=0.0)
    load.prefilled("x", now=0.5)
    state = load.state("a", 0.5, cached_tokens=16, resident_blocks=4, host_tokens=32)
    assert state.prefill_tokens_per_s == pytest.approx(load.speed.tokens_per_s)
    assert (state.recent_tokens, state.recent_requests) == (pytest.approx(1000, rel=0.01), pytest.approx(1, rel=0.01))
    assert (state.cached_tokens, state.host_tokens, state.resident_blocks) == (16, 32, 4)


def test_unseen_work_counts_bookings_that_were_decided_before_ours_and_arrived_after() -> None:
    unseen, now = UnseenWork(), 0.0
    for _ in range(400):
        now += 5.0
        unseen.decided(now)
        unseen.booked_elsewhere(now - 0.01, 2.0)
        unseen.booked_elsewhere(now + 0.01, 50.0)
    assert unseen.work_s == pytest.approx(2.0, rel=0.01)


def test_nothing_unseen_when_news_is_faster_than_decisions() -> None:
    unseen, now = UnseenWork(), 0.0
    for _ in range(100):
        now += 5.0
        unseen.booked_elsewhere(now - 1.0, 2.0)
        unseen.decided(now)
    assert unseen.work_s == 0.0


@pytest.mark.parametrize(("gap_s", "ratio"), [(0.0, 1.0), (0.5, 0.0)])
def test_followed_ratio_tells_a_burst_from_a_trickle(gap_s: float, ratio: float) -> None:
    arrivals = Arrivals()
    for number in range(2000):
        arrivals.observe(number * gap_s, work_s=1.0)
    assert arrivals.followed_ratio == pytest.approx(ratio, abs=0.01)
