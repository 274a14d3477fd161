"""serving/hosted/breaker.py: when a provider is left alone and how it comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.hosted.breaker import Breaker, BreakerState, Permit
from serving.hosted.config import BreakerConfig

CONFIG = BreakerConfig(failures_to_open=3, open_s=10)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(CONFIG, clock)


def permit(breaker: Breaker) -> Permit:
    given = breaker.acquire()
    assert given is not None
    return given


def open_it(breaker: Breaker) -> None:
    for _ in range(CONFIG.failures_to_open):
        permit(breaker).failed()
    assert breaker.state is BreakerState.OPEN


def test_opens_after_the_configured_number_of_consecutive_failures(breaker: Breaker) -> None:
    permit(breaker).failed()
    permit(breaker).failed()
    assert breaker.state is BreakerState.CLOSED
    permit(breaker).failed()
    assert breaker.state is BreakerState.OPEN
    assert breaker.acquire() is None


def test_a_success_in_between_starts_the_count_again(breaker: Breaker) -> None:
    for _ in range(5):
        permit(breaker).failed()
        permit(breaker).failed()
        permit(breaker).succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_calls_that_say_nothing_neither_count_nor_reset(breaker: Breaker) -> None:
    permit(breaker).failed()
    permit(breaker).failed()
    permit(breaker).release()
    permit(breaker).failed()
    assert breaker.state is BreakerState.OPEN


def test_half_open_lets_exactly_one_probe_through(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    clock.now = 9.99
    assert not breaker.allows()
    assert breaker.rest_s == pytest.approx(0.01)
    clock.now = 10
    assert breaker.state is BreakerState.HALF_OPEN
    probe = permit(breaker)
    assert breaker.acquire() is None
    probe.succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_a_failed_probe_opens_for_the_full_rest_again(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    clock.now = 12
    permit(breaker).failed()
    clock.now = 21.9
    assert breaker.acquire() is None
    clock.now = 22
    assert breaker.acquire() is not None


def test_a_probe_given_back_unreported_makes_room_for_the_next(breaker: Breaker, clock: Clock) -> None:
    open_it(breaker)
    clock.now = 10
    permit(breaker).release()
    assert breaker.state is BreakerState.HALF_OPEN
    permit(breaker).succeeded()
    assert breaker.state is BreakerState.CLOSED


def test_recovery_is_seen_within_30_s_for_every_allowed_configuration() -> None:
    """The breaker closes within 30 s of recovery."""
    assert BreakerConfig(open_s=30).open_s == 30
    with pytest.raises(ValueError, match="open_s"):
        BreakerConfig(open_s=30.1)


def test_results_from_before_the_last_change_are_ignored(breaker: Breaker, clock: Clock) -> None:
    """Neither stragglers of the outage nor slow successes from before it make the breaker flap."""
    changes: list[BreakerState] = []
    breaker = Breaker(CONFIG, clock, changes.append)
    old = [permit(breaker) for _ in range(10)]
    for straggler in old[:5]:
        straggler.failed()
    old[5].succeeded()
    assert breaker.state is BreakerState.OPEN
    clock.now = 10
    permit(breaker).succeeded()
    for straggler in old[6:]:
        straggler.failed()
    assert changes == [BreakerState.OPEN, BreakerState.HALF_OPEN, BreakerState.CLOSED]


def test_a_permit_reports_once(breaker: Breaker) -> None:
    once = permit(breaker)
    for _ in range(5):
        once.failed()
    assert breaker.state is BreakerState.CLOSED


@given(
    st.lists(st.tuples(st.sampled_from(["acquire", "ok", "fail", "release", "tick"]), st.integers(0, 5)), max_size=80)
)
def test_never_two_probes_and_never_a_call_while_open(steps: list[tuple[str, int]]) -> None:
    clock = Clock()
    breaker = Breaker(CONFIG, clock)
    permits: list[Permit] = []
    probes: list[Permit] = []
    for step, which in steps:
        before = breaker.state
        if step == "tick":
            clock.now += which * 2.5
        elif step == "acquire":
            given_permit = breaker.acquire()
            assert given_permit is None or before is not BreakerState.OPEN
            if given_permit is not None:
                permits.append(given_permit)
                if before is BreakerState.HALF_OPEN:
                    assert not probes, "a second probe while one is under way"
                    probes.append(given_permit)
        elif permits:
            ended = permits.pop(which % len(permits))
            {"ok": ended.succeeded, "fail": ended.failed, "release": ended.release}[step]()
            if ended in probes:
                probes.remove(ended)
        assert breaker.allows() == (breaker.state is not BreakerState.OPEN and not probes)
