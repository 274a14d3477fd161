"""Budgets decide by what is spent and reserved. Windows are in UTC. Nothing unknown counts as free."""

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from routing.cost.attempt import CostConfig, TokenPrice
from routing.cost.budget import (
    Action,
    Budget,
    BudgetConfig,
    BudgetState,
    Period,
    Scope,
    capped_model,
    charge_usd,
    most_own_usd,
    most_usd,
    rule,
    window_end,
    window_start,
)
from routing.records import RequestedModel, RequestFeatures, RequestRecord, Tier
from tests.serving.ledger.examples import ACCEPTED, DRAFT, ESCALATED, FRONTIER
from tests.serving.ledger.records import anything

PRICE = TokenPrice(input_usd=2.0, output_usd=8.0, source="test", as_of="2026-11-01")
DEAR = TokenPrice(input_usd=20.0, output_usd=80.0, source="ceiling", as_of="2026-11-01")
FEATURES = RequestFeatures(category="chat", input_tokens=1000, max_output_tokens=500, n_messages=1)


def state(spent: float = 0, reserved: float = 0, hard: float | None = 1.0, soft: float | None = None) -> BudgetState:
    budget = Budget(scope=Scope.TENANT, subject="blue", period=Period.DAY, hard_usd=hard, soft_usd=soft)
    return BudgetState(budget=budget, starts=date(2026, 11, 22), spent_usd=spent, reserved_usd=reserved)


class TestRule:
    @pytest.mark.parametrize(
        ("states", "action"),
        [
            ([], Action.ALLOW),
            ([state(0.999)], Action.ALLOW),
            ([state(1.0)], Action.REFUSE),
            ([state(0.5, reserved=0.5)], Action.REFUSE),
            ([state(0.5, reserved=0.499)], Action.ALLOW),
            ([state(0.5, soft=0.5)], Action.CHEAPER),
            ([state(0.5, soft=0.6)], Action.ALLOW),
            ([state(0.9, hard=None, soft=0.5)], Action.CHEAPER),
            ([state(0.5, soft=0.5), state(2.0)], Action.REFUSE),
            ([state(2.0), state(0)], Action.REFUSE),
            ([state(0, hard=0)], Action.REFUSE),
        ],
    )
    def test_limit_is_met_when_what_is_used_reaches_it(self, states: list[BudgetState], action: Action) -> None:
        assert rule(states, BudgetConfig()).action is action

    def test_says_which_budget(self) -> None:
        assert rule([state(0), state(3.0)], BudgetConfig()).because == state(3.0)

    @pytest.mark.parametrize(
        ("config", "spent", "action"),
        [
            ({"at_hard": "tier1_only"}, 1.0, Action.TIER1_ONLY),
            ({"at_hard": "cheaper", "at_soft": "tier1_only"}, 1.0, Action.TIER1_ONLY),
            ({"at_soft": "allow"}, 0.7, Action.ALLOW),
            ({"at_soft": "tier1_only"}, 0.7, Action.TIER1_ONLY),
        ],
    )
    def test_what_happens_is_configured(self, config: dict[str, Any], spent: float, action: Action) -> None:
        assert rule([state(spent, soft=0.5)], BudgetConfig(**config)).action is action


@pytest.mark.parametrize(
    ("asked", "action", "becomes"),
    [
        ("auto", Action.ALLOW, None),
        ("auto:quality", Action.CHEAPER, "auto:cheap"),
        ("frontier", Action.CHEAPER, "auto:cheap"),
        ("tier1", Action.CHEAPER, None),
        ("auto", Action.TIER1_ONLY, "tier1"),
        ("frontier", Action.TIER1_ONLY, "tier1"),
    ],
)
def test_request_becomes_what_it_may_be(asked: str, action: Action, becomes: str | None) -> None:
    assert capped_model(RequestedModel(asked), action) == becomes


class TestWindow:
    @pytest.mark.parametrize(
        ("now", "day", "month"),
        [
            (datetime(2026, 11, 22, 23, 59, 59, tzinfo=UTC), date(2026, 11, 22), date(2026, 11, 1)),
            (datetime(2026, 11, 30, 23, 59, 59, 999999, tzinfo=UTC), date(2026, 11, 30), date(2026, 11, 1)),
            (datetime(2026, 12, 1, tzinfo=UTC), date(2026, 12, 1), date(2026, 12, 1)),
            (datetime(2028, 2, 29, 12, tzinfo=UTC), date(2028, 2, 29), date(2028, 2, 1)),
            (datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=1))), date(2026, 11, 30), date(2026, 11, 1)),
        ],
    )
    def test_begins_at_utc_midnight_and_month_start(self, now: datetime, day: date, month: date) -> None:
        assert window_start(Period.DAY, now) == day
        assert window_start(Period.MONTH, now) == month

    @given(now=st.datetimes(datetime(2000, 1, 1), datetime(2900, 1, 1), timezones=st.just(UTC)))
    def test_every_instant_lies_in_its_window_and_the_next_begins_where_it_ends(self, now: datetime) -> None:
        for period in Period:
            start, end = window_start(period, now), window_end(period, now)
            assert start <= now.date()
            assert now < end
            assert window_start(period, end - timedelta(microseconds=1)) == start
            assert window_start(period, end) == end.date()


class TestMost:
    def test_is_one_full_answer_of_the_dearest_and_our_engines(self) -> None:
        cost = CostConfig(frontier={"a/x": PRICE, "b/y": DEAR}, engine_usd_per_hour={Tier.TIER1: 3.6})
        most = most_usd(FEATURES, ["a/x", "b/y"], cost, BudgetConfig(engine_s=10))
        assert most == pytest.approx(1000 * 20e-6 + 500 * 80e-6 + 0.01)
        assert most_own_usd(cost, BudgetConfig(engine_s=10)) == pytest.approx(0.01)

    def test_counts_every_choice_and_assumes_a_length_where_none_was_asked_for(self) -> None:
        features = FEATURES.model_copy(update={"max_output_tokens": None, "n_choices": 3})
        most = most_usd(features, ["a/x"], CostConfig(frontier={"a/x": PRICE}), BudgetConfig(output_tokens=100))
        assert most == pytest.approx(1000 * 2e-6 + 300 * 8e-6)

    def test_model_without_a_price_costs_the_ceiling(self) -> None:
        cost = CostConfig(frontier={"a/x": PRICE}, ceiling=DEAR)
        assert most_usd(FEATURES, ["a/x", "new/z"], cost, BudgetConfig()) == pytest.approx(1000 * 20e-6 + 500 * 80e-6)

    def test_is_unknown_without_price_and_ceiling(self) -> None:
        assert most_usd(FEATURES, ["new/z"], CostConfig(frontier={"a/x": PRICE}), BudgetConfig()) is None


class TestCharge:
    def test_is_the_cost(self) -> None:
        assert charge_usd(ESCALATED, CostConfig(ceiling=DEAR), 9.0) == pytest.approx(0.0015203)

    def test_of_unknown_price_is_the_ceiling(self) -> None:
        unknown = FRONTIER.model_copy(update={"cost_usd": None, "price_source": None})
        record = ESCALATED.model_copy(update={"attempts": (DRAFT, unknown), "cost_usd": None})
        assert charge_usd(record, CostConfig(ceiling=DEAR), 9.0) == pytest.approx(0.00012 + 171 * 20e-6 + 60 * 80e-6)

    @pytest.mark.parametrize("change", [{"usage": None, "price_source": None}, {"usage": None}], ids=["both", "usage"])
    def test_of_unknown_use_is_what_was_reserved(self, change: dict[str, Any]) -> None:
        unknown = FRONTIER.model_copy(update={"cost_usd": None, **change})
        record = ACCEPTED.model_copy(update={"attempts": (DRAFT, unknown), "cost_usd": None})
        assert charge_usd(record, CostConfig(ceiling=DEAR), 9.0) == 9.0

    @given(record=anything, reserved=st.floats(0, 10))
    def test_is_never_negative_whatever_happened(self, record: RequestRecord, reserved: float) -> None:
        assert charge_usd(record, CostConfig(ceiling=DEAR), reserved) >= 0


@pytest.mark.parametrize(
    "limits",
    [{}, {"hard_usd": -1}, {"hard_usd": float("nan")}, {"hard_usd": float("inf")}, {"hard_usd": 1, "soft_usd": 2}],
)
def test_limits_that_mean_nothing_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Budget(scope=Scope.TENANT, subject="blue", period=Period.DAY, **limits)
