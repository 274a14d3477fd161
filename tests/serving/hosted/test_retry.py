"""serving/hosted/retry.py: who is asked next, and when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.hosted.config import FrontierConfig
from serving.hosted.faults import Remedy
from serving.hosted.retry import FailedTry, NextTry, next_try

PROVIDER = {"kind": "openai", "base_url": "http://x/v1", "api_key": "k", "model": "m", "max_context_tokens": 10}


def config(**options: object) -> FrontierConfig:
    return FrontierConfig.model_validate({"providers": [{"name": "a", **PROVIDER}], "backoff_s": 0, **options})


def after(*failed: FailedTry, lanes: int = 2, deadline: float = 100, **options: object) -> NextTry | None:
    return next_try(failed, [True] * lanes, 0.0, deadline, config(**options))


def a_try(lane: int, remedy: Remedy = Remedy.RETRY, at: float = 0.0, retry_after_s: float | None = None) -> FailedTry:
    return FailedTry(lane, remedy, at, retry_after_s)


@pytest.mark.parametrize(
    ("failed", "lane"),
    [
        ([], 0),
        ([a_try(0)], 0),  # a 500 is repeated once where it happened
        ([a_try(0), a_try(0)], 1),  # then the next provider
        ([a_try(0, Remedy.ELSEWHERE)], 1),  # a timeout goes to the next provider at once
        ([a_try(0, Remedy.ABANDON)], 1),
        ([a_try(0, Remedy.STOP)], None),
        ([a_try(0, Remedy.ABANDON), a_try(1, Remedy.ABANDON)], None),
        ([a_try(0, Remedy.ABANDON), a_try(1, Remedy.ELSEWHERE)], 1),  # slow is better than never
        ([a_try(0, retry_after_s=5)], 0),  # a short Retry-After is honoured
        ([a_try(0, retry_after_s=60)], 1),  # a long one is not waited for while another provider is left
        ([a_try(0), a_try(0), a_try(1)], None),  # the budget
    ],
)
def test_next_provider(failed: list[FailedTry], lane: int | None) -> None:
    chosen = after(*failed)
    assert (chosen and chosen.lane) == lane


def test_a_long_retry_after_is_waited_for_when_nobody_else_is_left_and_it_fits() -> None:
    """Wait if within the deadline."""
    assert after(a_try(0, retry_after_s=60), lanes=1) == NextTry(0, 60.0)
    assert after(a_try(0, retry_after_s=60), lanes=1, deadline=59) is None


def test_time_spent_elsewhere_counts_towards_retry_after() -> None:
    failed = [a_try(0, at=-8, retry_after_s=10), a_try(1, Remedy.ABANDON)]
    assert after(*failed) == NextTry(0, 2.0)


def test_an_open_breaker_is_passed_over() -> None:
    assert next_try([], [False, True], 0, 100, config()) == NextTry(1, 0.0)
    assert next_try([], [False, False], 0, 100, config()) is None


def test_backoff_doubles_and_is_spread_by_jitter() -> None:
    waits = [
        next_try([a_try(0)] * n, [True], 0, 100, config(backoff_s=1, max_tries=9), jitter)
        for n in (1, 2, 3)
        for jitter in (0, 1)
    ]
    assert [w and w.wait_s for w in waits] == [0.5, 1, 1, 2, 2, 4]


FAILED = st.builds(
    FailedTry,
    lane=st.integers(0, 2),
    remedy=st.sampled_from([Remedy.RETRY, Remedy.ELSEWHERE, Remedy.ABANDON]),
    at=st.floats(-50, 0),
    retry_after_s=st.none() | st.floats(0, 1000),
)


@given(
    st.lists(FAILED, max_size=6),
    st.lists(st.booleans(), min_size=3, max_size=3),
    st.floats(-1, 50),
    st.integers(1, 6),
    st.floats(0, 1),
)
def test_the_budget_the_deadline_and_the_ruled_out_are_never_overrun(
    failed: list[FailedTry], lanes: list[bool], deadline: float, max_tries: int, jitter: float
) -> None:
    """One budget of tries and one deadline, whatever the failures were."""
    chosen = next_try(failed, lanes, 0.0, deadline, config(max_tries=max_tries, backoff_s=1), jitter)
    if chosen is None:
        return
    assert len(failed) < max_tries
    assert 0 <= chosen.wait_s < deadline
    assert lanes[chosen.lane]
    assert not any(f.lane == chosen.lane and f.remedy is Remedy.ABANDON for f in failed)
    asked_to_wait = [f.at + f.retry_after_s for f in failed if f.lane == chosen.lane and f.retry_after_s is not None]
    assert chosen.wait_s >= max(asked_to_wait, default=0.0) - 1e-9
