"""The break-even volume: by hand, against a search through all volumes, and where none exists."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serving.audit.forecast.break_even import Plan, break_even


def test_break_even_by_hand() -> None:
    # A replica at $2 for 730 hours is $1,460. Every request saves 2 cents: 73,000 requests.
    plan = Plan(now_usd=0.03, paid_usd=0.01, busy_s=0.1, replica_usd_per_hour=2.0)
    found = break_even(plan)
    assert found is not None
    assert found.first_requests == 73_000
    assert plan.saved_usd(73_000) == pytest.approx(0.0, abs=1e-6)


def test_no_saving_per_request_never_pays() -> None:
    assert break_even(Plan(now_usd=0.01, paid_usd=0.01, busy_s=0.1, replica_usd_per_hour=2.0)) is None


def test_replica_that_cannot_earn_its_own_rent_never_pays() -> None:
    """730 h at .6 busy and 10 s a request: 157,680 requests, which at a cent each bring $1,577 for a rent of $1,825."""
    assert break_even(Plan(now_usd=0.02, paid_usd=0.01, busy_s=10, replica_usd_per_hour=2.5)) is None


plans = st.builds(
    Plan,
    now_usd=st.floats(0.5, 2),
    paid_usd=st.floats(0, 0.4),
    busy_s=st.floats(20, 200),
    replica_usd_per_hour=st.floats(0.1, 5),
    max_utilisation_ratio=st.floats(0.2, 1),
    min_replicas=st.integers(0, 3),
    fixed_usd_per_hour=st.sampled_from([0.0, 0.5]),
    hours=st.just(24.0),
)


@given(plans)
def test_break_even_is_what_a_search_through_all_volumes_finds(plan: Plan) -> None:
    found = break_even(plan)
    volumes = range(1, 20_000)
    pays = [plan.saved_usd(v) >= -1e-6 for v in volumes]
    if found is None:
        assert not any(pays)
        return
    assume(found.for_good_requests < 15_000)
    assert all(pays[max(0, found.for_good_requests - 1) :])
    if found.for_good_requests > 1:
        assert not pays[found.for_good_requests - 2]
    assert found.first_requests == 1 + pays.index(True)
    assert found.first_requests <= found.for_good_requests


@given(plans)
def test_dearer_rent_never_lowers_the_break_even(plan: Plan) -> None:
    dearer = plan.model_copy(update={"replica_usd_per_hour": plan.replica_usd_per_hour * 1.5})
    now, then = break_even(plan), break_even(dearer)
    if then is not None:
        assert now is not None
        assert now.for_good_requests <= then.for_good_requests
