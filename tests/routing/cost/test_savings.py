"""Savings are signed, add up layer by layer, and leave out what nobody knows."""

import math
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.cost.prefill_speed import PrefillSpeed
from routing.cost.savings import MIN_UNITS, Grade, Layer, Savings, SavingsBook, SavingsConfig, SavingsReport
from routing.records import AttemptKind, AttemptOutcome, RequestRecord, Tier
from tests.serving.ledger.examples import ACCEPTED, DRAFT, ESCALATED, FAILED, FRONTIER, ROUTER, example
from tests.serving.ledger.records import anything

SPEED = PrefillSpeed(tier=Tier.TIER1, model="qwen-7b", s_per_token=0.001, n_attempts=100)


def report(
    records: Iterable[RequestRecord],
    prefill: tuple[PrefillSpeed, ...] = (),
    grades: dict[str, Grade] | None = None,
    **config: Any,
) -> SavingsReport:
    book = SavingsBook(prefill, SavingsConfig(**config))
    for record in records:
        book.add(record, (grades or {}).get(record.request_id))
    return book.report()


def layers(savings: Savings) -> dict[Layer, float]:
    return {layer: interval.value or 0.0 for layer, interval in savings.layers.items() if interval is not None}


class TestLayers:
    def test_accepted_draft_saves_what_the_frontier_would_have_cost_less_the_router(self) -> None:
        total = report([ACCEPTED]).total
        assert total.saved_usd.value == pytest.approx(0.0009 - 0.0001203)
        assert layers(total)[Layer.ROUTING] == pytest.approx(0.0009 - 0.0001203)
        assert layers(total)[Layer.GATE] == 0

    def test_rejected_draft_is_a_loss_of_the_gate(self) -> None:
        total = report([ESCALATED]).total
        assert total.saved_usd.value == pytest.approx(0.0014 - 0.0015203)
        assert total.saved_usd.value < 0
        assert layers(total)[Layer.GATE] == pytest.approx(-0.00012)
        assert layers(total)[Layer.ROUTING] == pytest.approx(-0.0000003)
        assert total.wasted_drafts_usd == pytest.approx(0.00012)
        assert (total.judged, total.escalated) == (1, 1)
        assert total.escalation_delay_s == pytest.approx(0.61)

    def test_prefix_cache_is_worth_the_prefill_that_was_not_done(self) -> None:
        total = report([ACCEPTED], (SPEED,)).total
        usd_per_s = 0.00012 / 0.2
        cached = 128 * 0.001 * usd_per_s
        assert layers(total)[Layer.PREFIX_CACHE] == pytest.approx(cached)
        assert layers(total)[Layer.ROUTING] == pytest.approx(0.0009 - 0.0001203 - cached)
        assert total.saved_usd.value == pytest.approx(0.0009 - 0.0001203)

    def test_kernel_is_worth_the_seconds_that_were_not_spent(self) -> None:
        total = report([ACCEPTED], kernel_speedup=1.5).total
        assert layers(total)[Layer.KERNEL] == pytest.approx(0.5 * 0.0001203)
        assert total.saved_usd.value == pytest.approx(0.0009 - 0.0001203)

    def test_frontier_does_not_run_on_our_kernels(self) -> None:
        record = ESCALATED.model_copy(update={"attempts": (FRONTIER,), "cost_usd": 0.0014})
        assert layers(report([record], kernel_speedup=2).total)[Layer.KERNEL] == 0

    def test_what_was_not_measured_is_none(self) -> None:
        measured = report([ACCEPTED]).total.layers
        assert measured[Layer.PREFIX_CACHE] is None
        assert measured[Layer.KERNEL] is None

    @pytest.mark.parametrize(
        ("attempt", "layer"),
        [
            (DRAFT.model_copy(update={"outcome": AttemptOutcome.ABORTED}), Layer.GATE),
            (DRAFT.model_copy(update={"outcome": AttemptOutcome.FAILED}), Layer.LOST),
            (DRAFT.model_copy(update={"outcome": AttemptOutcome.CANCELLED}), Layer.LOST),
            (FRONTIER.model_copy(update={"outcome": AttemptOutcome.FAILED}), Layer.LOST),
            (ROUTER.model_copy(update={"outcome": AttemptOutcome.FAILED}), Layer.ROUTING),
            (ROUTER.model_copy(update={"kind": AttemptKind.JUDGE}), Layer.GATE),
            (DRAFT.model_copy(update={"kind": AttemptKind.SAMPLE}), Layer.GATE),
            (FRONTIER.model_copy(update={"kind": AttemptKind.SHADOW}), Layer.SHADOW),
        ],
        ids=lambda value: value.value if isinstance(value, Layer) else f"{value.kind}-{value.outcome}",
    )
    def test_every_attempt_that_did_not_answer_is_a_loss_of_its_layer(self, attempt: Any, layer: Layer) -> None:
        record = ESCALATED.model_copy(
            update={"attempts": (attempt, FRONTIER), "cost_usd": attempt.cost_usd + FRONTIER.cost_usd}
        )
        expected = dict.fromkeys(layers(report([record]).total), 0.0) | {layer: -attempt.cost_usd}
        assert layers(report([record]).total) == pytest.approx(expected, abs=1e-15)

    def test_request_without_an_answer_counts_its_cost_as_lost(self) -> None:
        record = FAILED.model_copy(
            update={"cost_usd": 0.5, "attempts": (FRONTIER.model_copy(update={"outcome": "failed", "cost_usd": 0.5}),)}
        )
        total = report([record]).total
        assert (total.unserved, total.baseline_usd, total.saved_usd.value) == (1, 0, -0.5)
        assert layers(total)[Layer.LOST] == -0.5


@given(records=st.lists(anything, max_size=8), speedup=st.none() | st.floats(1, 4))
def test_layers_and_purposes_add_up_whatever_happened(records: list[RequestRecord], speedup: float | None) -> None:
    priced = [
        record.model_copy(
            update={
                "cost_usd": math.fsum(a.cost_usd for a in record.attempts if a.cost_usd is not None)
                if all(a.cost_usd is not None for a in record.attempts)
                else None
            }
        )
        for record in records
    ]
    found = report(priced, (SPEED,), kernel_speedup=speedup)
    for group in (found.total, *found.by_tenant.values(), *found.by_category.values(), *found.by_day.values()):
        assert sum(layers(group).values()) == pytest.approx(group.baseline_usd - group.cost_usd, rel=1e-9, abs=1e-6)
        spent = (
            group.answers_usd
            + group.router_usd
            + group.wasted_drafts_usd
            + group.judging_usd
            + group.lost_usd
            + group.shadow_usd
        )
        assert spent == pytest.approx(group.cost_usd, rel=1e-9, abs=1e-9)
    for groups in (found.by_tenant, found.by_category, found.by_day):
        assert sum(group.requests for group in groups.values()) == found.total.requests == len(records)
        assert sum(group.cost_usd for group in groups.values()) == pytest.approx(found.total.cost_usd)


class TestUnknown:
    def test_request_of_unknown_cost_is_counted_and_in_no_sum(self) -> None:
        """A missing price is never 0."""
        total = report([ACCEPTED, ACCEPTED.model_copy(update={"request_id": "x", "cost_usd": None})]).total
        assert (total.requests, total.unpriced) == (2, 1)
        assert total.cost_usd == pytest.approx(0.0001203)

    def test_answer_without_a_baseline_is_in_no_sum(self) -> None:
        total = report([ACCEPTED.model_copy(update={"baseline_cost_usd": None})]).total
        assert (total.unpriced, total.cost_usd, total.saved_usd.value) == (1, 0, 0)

    def test_nothing_booked_is_no_share(self) -> None:
        total = report([]).total
        assert total.saved_ratio.value is None
        assert total.quality is None


class TestInterval:
    def test_holds_the_saving_and_comes_out_again(self) -> None:
        records = [example(n).model_copy(update={"session_id": None}) for n in range(200)]
        records[::2] = [ESCALATED.model_copy(update={"request_id": f"e{n}"}) for n in range(100)]
        first, second = report(records), report(records)
        assert first == second
        saved = first.total.saved_usd
        assert saved.low is not None
        assert saved.high is not None
        assert saved.value is not None
        assert saved.low < saved.value < saved.high

    def test_needs_more_than_a_handful_of_sessions(self) -> None:
        few = [example(n).model_copy(update={"session_id": f"s{n % (MIN_UNITS - 1)}"}) for n in range(100)]
        assert report(few).total.saved_usd.low is None

    def test_sessions_are_drawn_whole(self) -> None:
        """Turns of one session go together: ten long sessions say less than a hundred requests."""
        lone = [
            example(n).model_copy(update={"session_id": None, "cost_usd": 0.0001203 * (n % 10)}) for n in range(100)
        ]
        alike = [record.model_copy(update={"session_id": f"s{n % 10}"}) for n, record in enumerate(lone)]
        for records in (lone, alike):
            records[:] = [
                r.model_copy(update={"attempts": (DRAFT.model_copy(update={"cost_usd": r.cost_usd}),)}) for r in records
            ]
        narrow, wide = report(lone).total.saved_usd, report(alike).total.saved_usd
        assert narrow.value == pytest.approx(wide.value)
        assert narrow.low is not None
        assert narrow.high is not None
        assert wide.low is not None
        assert wide.high is not None
        assert wide.high - wide.low > narrow.high - narrow.low


class TestQuality:
    def test_stands_beside_the_saving_of_its_group(self) -> None:
        grades = {
            "req-accepted": Grade(tier1_quality=0.5, frontier_quality=1.0),
            "req-escalated": Grade(tier1_quality=0.0, frontier_quality=0.8),
        }
        found = report([ACCEPTED, ESCALATED], grades=grades)
        assert found.total.n_graded == 2
        assert found.total.quality is not None
        assert found.total.frontier_quality is not None
        assert found.total.quality.value == pytest.approx((0.5 + 0.8) / 2)
        assert found.total.frontier_quality.value == pytest.approx(0.9)

    def test_is_none_where_nothing_was_graded(self) -> None:
        assert report([ACCEPTED], grades={"req-accepted": Grade(tier1_quality=1.0)}).total.quality is None


def test_replicas_show_what_they_did_and_found_cached() -> None:
    found = report([ACCEPTED, ESCALATED]).by_replica
    assert list(found) == ["router-0", "tier1-1"]
    assert found["tier1-1"].model_dump() == {
        "tier": Tier.TIER1,
        "attempts": 2,
        "input_tokens": 320,
        "cached_tokens": 256,
        "output_tokens": 96,
        "engine_s": pytest.approx(0.4),
    }


def test_groups_are_ordered_by_cost_and_days_by_date() -> None:
    later = example(1, tenant="green").model_copy(update={"at": "2026-03-02T00:00:00.000000+00:00"})
    found = report([later, ESCALATED, ACCEPTED])
    assert list(found.by_tenant) == ["blue", "green"]
    assert list(found.by_day) == ["2026-03-01", "2026-03-02"]
    assert found.reject_reasons == {"loop": 1, "truncated": 1}
    assert found.decisions == {"score_high": 3}
