"""A row adds up what the ledger booked and what the client timed; what is not known stays unknown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.layers.row import answered, make_row, part_throughputs
from routing.records import (
    Api,
    Attempt,
    AttemptKind,
    AttemptOutcome,
    RequestedModel,
    RequestOutcome,
    RequestRecord,
    Tier,
    Usage,
)
from tests.benchmarks.layers.answers import by_tier1, one


def attempt(kind: AttemptKind, tier: Tier, outcome: AttemptOutcome, usd: float | None, **more: object) -> Attempt:
    return Attempt(
        kind=kind,
        tier=tier,
        provider="self",
        model="m",
        outcome=outcome,
        started_s=0,
        duration_s=1,
        cost_usd=usd,
        **more,
    )  # type: ignore[arg-type]


def booked(*attempts: Attempt, served: Tier = Tier.FRONTIER) -> RequestRecord:
    return RequestRecord(
        request_id="r", at="2026-11-22T00:00:00.000000+00:00", tenant="t", api=Api.CHAT,
        requested_model=RequestedModel.AUTO, served_tier=served, stream=True, outcome=RequestOutcome.OK, status=200,
        duration_s=1, config_hash="c", attempts=attempts,
    )  # fmt: skip


ROUTER = attempt(
    AttemptKind.ROUTER, Tier.ROUTER, AttemptOutcome.USED, 1e-6, engine_s=0.1,
    usage=Usage(input_tokens=100, output_tokens=1, cached_tokens=64),
)  # fmt: skip
DRAFT = attempt(
    AttemptKind.DRAFT, Tier.TIER1, AttemptOutcome.REJECTED, 2e-6, engine_s=0.4,
    usage=Usage(input_tokens=60, output_tokens=9),
)  # fmt: skip
ANSWER = attempt(AttemptKind.FRONTIER, Tier.FRONTIER, AttemptOutcome.SERVED, 1e-3)


def test_a_rejected_draft_is_on_the_bill_of_our_own_engines() -> None:
    found = answered("t", 1.0, 3.0, 2.0, booked(ROUTER, DRAFT, ANSWER))
    assert found.own_usd == pytest.approx(3e-6)
    assert found.frontier_usd == pytest.approx(1e-3)
    assert found.usd == pytest.approx(1.003e-3)
    assert found.own_s == pytest.approx(0.5)
    assert (found.own_input_tokens, found.own_cached_tokens) == (160, 64)
    assert (found.tier, found.drafted, found.rejected) == (Tier.FRONTIER, True, True)


def test_one_unknown_price_makes_the_bill_unknown_but_not_the_other_part() -> None:
    nameless = attempt(AttemptKind.FRONTIER, Tier.FRONTIER, AttemptOutcome.SERVED, None)
    found = answered("t", 1.0, 3.0, 2.0, booked(ROUTER, nameless))
    assert (found.usd, found.frontier_usd) == (None, None)
    assert found.own_usd == pytest.approx(1e-6)
    row = make_row("r", [found, one(1)], 1.0, 0.0)
    assert (row.usd.value, row.frontier_usd, row.rented_usd) == (None, None, None)


def test_a_failed_request_is_wrong_late_and_counted() -> None:
    lost = answered("task-9", 0.0, None, None, None)
    row = make_row("r", [one(0, e2e_s=0.5), lost], 4.0, 0.0)
    assert (row.n, row.failed) == (2, 1)
    assert row.accuracy.value == 0.5
    assert row.latency["all"].soon_ratio == 0.5
    assert row.throughput_rps == 0.25


def test_figures_of_a_row() -> None:
    row = make_row(
        "r", [by_tier1(0), by_tier1(1, own_cached_tokens=50), one(2), one(3, drafted=True, rejected=True)], 8.0, 0.9
    )
    assert row.usd.value == pytest.approx(1000 * (2 * 2e-5 + 2 * 1e-3) / 4)
    assert row.own_usd == pytest.approx(0.01)
    assert row.frontier_usd == pytest.approx(0.5)
    assert row.rented_usd == pytest.approx(0.5 + 0.9 * 8 / 3600 * 1000 / 4)
    assert row.hit_ratio == 0.25
    assert (row.tier1_ratio, row.drafted_ratio) == (0.5, 0.75)
    assert row.rejected_ratio == pytest.approx(1 / 3)
    assert (row.latency["tier1"].soon_ratio, row.latency["frontier"].soon_ratio) == (1.0, 0.0)
    assert row.own_s == pytest.approx(0.4)


def test_a_row_without_engines_of_our_own_has_no_hits_and_no_drafts() -> None:
    row = make_row("r", [one(0)], 1.0, 0.0)
    assert (row.hit_ratio, row.rejected_ratio, row.latency["tier1"].soon_ratio) == (None, None, None)
    assert row.rented_usd == row.frontier_usd


@given(st.lists(st.floats(0.01, 5), min_size=1, max_size=40))
def test_the_whole_throughput_lies_between_its_parts(gaps: list[float]) -> None:
    done = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    low, high = part_throughputs(done, done[-1])
    whole = len(done) // 4 * 4 / done[len(done) // 4 * 4 - 1] if len(done) >= 8 else len(done) / done[-1]
    assert low <= whole * (1 + 1e-9)
    assert high >= whole * (1 - 1e-9)
