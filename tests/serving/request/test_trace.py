"""What a request is billed for, however its attempts ended."""

import asyncio
import time

import pytest

from routing.cost.attempt import NOT_BILLED, CostConfig, TokenPrice
from routing.records import (
    Api,
    AttemptKind,
    AttemptOutcome,
    ReplicaChoice,
    ReplicaMode,
    RequestedModel,
    RequestFeatures,
    Tier,
    Usage,
)
from serving.errors import FrontierUnavailable
from serving.request.call import Call
from serving.request.frame import Frame
from serving.request.trace import Booking, RequestTrace

PRICE = TokenPrice(input_usd=10, output_usd=20, cached_input_usd=1, source="list", as_of="2026-01-31")
COST = CostConfig(
    frontier={"acme/large": PRICE},
    baseline="acme/large",
    engine_usd_per_hour={Tier.TIER1: 3.6},
    engine_price_source="rent",
)
PROMPT_TOKENS = 1000


@pytest.fixture
def trace() -> RequestTrace:
    call = Call(
        request_id="req",
        tenant="blue",
        api=Api.CHAT,
        model=RequestedModel.AUTO,
        body={},
        features=RequestFeatures(category="other", input_tokens=PROMPT_TOKENS, n_messages=1),
        prompt_token_ids=[0] * PROMPT_TOKENS,
        cache_salt="salt",
        deadline=time.perf_counter() + 60,
    )
    return RequestTrace(call, "c0ffee", COST)


def frontier(trace: RequestTrace, ending: BaseException | None, *frames: Frame) -> Booking:
    """One call of the provider that ended so after these frames."""
    try:
        with trace.attempt(AttemptKind.FRONTIER, Tier.FRONTIER, "large", "acme") as booking:
            for frame in frames:
                booking.see(frame)
            if ending is not None:
                raise ending
            booking.outcome = AttemptOutcome.SERVED
            trace.served = booking
    except (FrontierUnavailable, asyncio.CancelledError, GeneratorExit):
        pass
    return booking


def test_provider_that_refused_is_free_and_the_request_has_a_cost(trace: RequestTrace) -> None:
    frontier(trace, FrontierUnavailable("503"))
    frontier(trace, None, Frame(usage=Usage(input_tokens=100, output_tokens=10)))
    row = trace.record()
    assert [(a.cost_usd, a.price_source) for a in row.attempts] == [
        (0.0, NOT_BILLED),
        (pytest.approx(0.0012), "list (2026-01-31)"),
    ]
    assert row.cost_usd == row.baseline_cost_usd == pytest.approx(0.0012)


def test_choice_of_the_replica_is_booked_and_told(trace: RequestTrace) -> None:
    choice = ReplicaChoice(mode=ReplicaMode.EXACT, expected_cached_tokens=96)
    with trace.attempt(AttemptKind.DRAFT, Tier.TIER1, "small", "self") as booking:
        booking.see(Frame(text="a", n_tokens=1, replica_id="replica-1", replica_choice=choice))
        booking.outcome = AttemptOutcome.SERVED
        trace.served = booking
    row = trace.record()
    assert row.attempts[0].replica_choice == choice
    assert trace.metadata()["attempts"][0]["replica"] == {
        "id": "replica-1",
        "mode": "exact",
        "expected_cached_tokens": 96,
    }


def test_metadata_are_those_of_the_settled_record(trace: RequestTrace) -> None:
    frontier(trace, None, Frame(usage=Usage(input_tokens=100, output_tokens=10)))
    row = trace.settle()
    trace.config_hash = "another"
    assert trace.metadata()["config_hash"] == row.config_hash != "another"


@pytest.mark.parametrize("ending", [asyncio.CancelledError(), GeneratorExit()])
def test_provider_we_hung_up_on_before_its_first_token_is_billed_for_the_prompt(
    trace: RequestTrace, ending: BaseException
) -> None:
    """The ledger is right when the client leaves while the provider is thinking."""
    frontier(trace, ending)
    (attempt,) = trace.record().attempts
    assert attempt.usage == Usage(input_tokens=PROMPT_TOKENS, output_tokens=0, estimated=True)
    assert attempt.cost_usd == pytest.approx(0.01)


def test_stream_cut_after_some_tokens_is_billed_for_them(trace: RequestTrace) -> None:
    """Partial tokens are billed. They are estimated, and marked so."""
    frontier(trace, FrontierUnavailable("cut"), Frame(text="a b", n_tokens=2))
    (attempt,) = trace.record().attempts
    assert attempt.usage == Usage(input_tokens=PROMPT_TOKENS, output_tokens=2, estimated=True)
    assert attempt.cost_usd == pytest.approx(0.01004)


def test_answer_of_a_snapshot_costs_the_price_of_the_name_asked_for(trace: RequestTrace) -> None:
    frontier(trace, None, Frame(usage=Usage(input_tokens=100, output_tokens=10), model="large-2026-01-31"))
    (attempt,) = trace.record().attempts
    assert (attempt.model, attempt.cost_usd) == ("large-2026-01-31", pytest.approx(0.0012))


def test_one_unknown_cost_makes_the_sum_unknown(trace: RequestTrace) -> None:
    """A missing price is never 0."""
    frontier(trace, None, Frame(usage=Usage(input_tokens=100, output_tokens=10), model="another"))
    with trace.attempt(AttemptKind.DRAFT, Tier.TIER1, "qwen") as draft:
        draft.see(Frame(usage=Usage(input_tokens=100, output_tokens=10), engine_s=1.0))
    row = trace.record()
    assert [a.cost_usd for a in row.attempts] == [None, pytest.approx(0.001)]
    assert row.cost_usd is None


def test_rejected_draft_is_part_of_the_cost_and_warms_the_counterfactual_cache(trace: RequestTrace) -> None:
    with trace.attempt(AttemptKind.DRAFT, Tier.TIER1, "qwen") as draft:
        draft.see(Frame(usage=Usage(input_tokens=100, output_tokens=10, cached_tokens=80), engine_s=1.0))
        draft.outcome = AttemptOutcome.REJECTED
    frontier(trace, None, Frame(usage=Usage(input_tokens=100, output_tokens=10, cached_tokens=0)))
    row = trace.record()
    assert row.cost_usd == pytest.approx(0.001 + 0.0012)
    assert row.baseline_cost_usd == pytest.approx((20 * 10 + 80 * 1 + 10 * 20) / 1e6)


def test_request_that_got_no_answer_has_no_baseline(trace: RequestTrace) -> None:
    frontier(trace, FrontierUnavailable("503"))
    assert trace.record().baseline_cost_usd is None
