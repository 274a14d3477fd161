"""Decides whether a budget still pays for a request. Budgets are by tenant and key, per UTC day or month.

A request is let in while spent plus reserved dollars are below the limit. It then reserves the most that it can cost.
Its cost is settled afterwards. However many arrive at once, a budget is overspent by at most one reservation.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from typing import Literal, Self

from pydantic import Field, model_validator

from routing.cost.attempt import CostConfig
from routing.records import Record, RequestedModel, RequestFeatures, RequestRecord, Tier, Usage

HOUR_S = 3600.0


class Scope(StrEnum):
    """Whose budget it is."""

    TENANT = "tenant"
    KEY = "key"


class Period(StrEnum):
    """How long a budget lasts, in UTC."""

    DAY = "day"
    MONTH = "month"


class Action(StrEnum):
    """What happens to a request, from the mildest to the strictest. A closed set, used as a metric label."""

    ALLOW = "allow"
    CHEAPER = "cheaper"  # as auto:cheap, whatever was asked for
    TIER1_ONLY = "tier1_only"  # no frontier
    REFUSE = "refuse"


class BudgetConfig(Record):
    """What a limit does, and how much a request reserves before its cost is known."""

    at_soft: Literal[Action.ALLOW, Action.CHEAPER, Action.TIER1_ONLY] = Action.CHEAPER
    at_hard: Literal[Action.CHEAPER, Action.TIER1_ONLY, Action.REFUSE] = Action.REFUSE
    output_tokens: int = Field(2048, ge=1, description="reserved for an answer whose length the client did not limit")
    engine_s: float = Field(10.0, ge=0, description="seconds of our own engines that are reserved")
    refresh_s: float = Field(5.0, gt=0, description="a first budget set by another process is seen within this time")
    timeout_s: float = Field(2.0, gt=0, description="longest wait for the database. After it ledger.on_failure decides")


class Budget(Record):
    """One limit. From soft_usd on, at_soft happens. From hard_usd on, at_hard happens."""

    scope: Scope
    subject: str = Field(min_length=1, max_length=256, description="the tenant's name or the key's id")
    period: Period
    hard_usd: float | None = Field(None, ge=0, allow_inf_nan=False)
    soft_usd: float | None = Field(None, ge=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _limits_make_sense(self) -> Self:
        if self.hard_usd is None and self.soft_usd is None:
            raise ValueError("a budget needs hard_usd, soft_usd or both")
        if self.hard_usd is not None and self.soft_usd is not None and self.soft_usd > self.hard_usd:
            raise ValueError(f"soft_usd {self.soft_usd} is above hard_usd {self.hard_usd}: it would never be met")
        return self


class BudgetState(Record):
    """A budget and what is used of it in one window. starts: the window's first day."""

    budget: Budget
    starts: date
    spent_usd: float = Field(ge=0)
    reserved_usd: float = Field(ge=0)

    @property
    def used_usd(self) -> float:
        """Spent, and promised to requests that are being answered."""
        return self.spent_usd + self.reserved_usd


class Ruling(Record):
    """What happens to a request, and the budget that says so. because is None when all allow it."""

    action: Action = Action.ALLOW
    because: BudgetState | None = None


def window_start(period: Period, now: datetime) -> date:
    """First day of the window that an aware instant lies in."""
    today = now.astimezone(UTC).date()
    return today if period is Period.DAY else today.replace(day=1)


def window_end(period: Period, now: datetime) -> datetime:
    """When the next window begins."""
    start = window_start(period, now)
    nearly = start + timedelta(days=1 if period is Period.DAY else 32)
    end = nearly if period is Period.DAY else nearly.replace(day=1)
    return datetime(end.year, end.month, end.day, tzinfo=UTC)


def rule(states: Sequence[BudgetState], config: BudgetConfig) -> Ruling:
    """The strictest ruling of all budgets. A limit is met when the used dollars reach it."""
    order = list(Action)
    strictest = Ruling()
    for state in states:
        limit = state.budget
        action = Action.ALLOW
        if limit.soft_usd is not None and state.used_usd >= limit.soft_usd:
            action = config.at_soft
        if limit.hard_usd is not None and state.used_usd >= limit.hard_usd:
            action = max(action, config.at_hard, key=order.index)
        if order.index(action) > order.index(strictest.action):
            strictest = Ruling(action=action, because=state)
    return strictest


def capped_model(asked: RequestedModel, action: Action) -> RequestedModel | None:
    """What a request becomes under an action. None: it stays as it is."""
    if action is Action.CHEAPER and asked is not RequestedModel.TIER1:
        return RequestedModel.AUTO_CHEAP
    return RequestedModel.TIER1 if action is Action.TIER1_ONLY else None


def most_own_usd(cost: CostConfig, config: BudgetConfig) -> float:
    """The most that our own engines are expected to cost a request."""
    hourly = cost.engine_usd_per_hour.get(Tier.ROUTER, 0.0) + cost.engine_usd_per_hour.get(Tier.TIER1, 0.0)
    return config.engine_s / HOUR_S * hourly


def most_usd(features: RequestFeatures, targets: Sequence[str], cost: CostConfig, config: BudgetConfig) -> float | None:
    """The most that a request can cost: our engines plus one full answer of the most expensive frontier model.

    targets: 'provider/model' of everything that may answer. One without a price costs cost.ceiling.
    Returns None when a target has no price and there is no ceiling.
    """
    output_tokens = (features.max_output_tokens or config.output_tokens) * features.n_choices
    usage = Usage(input_tokens=features.input_tokens, output_tokens=output_tokens, cached_tokens=0)
    dearest = 0.0
    for target in targets:
        price = cost.frontier.get(target, cost.ceiling)
        if price is None:
            return None
        written = usage.model_copy(update={"cache_write_tokens": usage.input_tokens})
        dearest = max(dearest, price.usd(usage), price.usd(written))
    return dearest + most_own_usd(cost, config)


def charge_usd(record: RequestRecord, cost: CostConfig, reserved_usd: float) -> float:
    """What a settled request takes from its budgets: its cost, as far as it is known.

    Tokens of an unknown price are charged at the ceiling. When the tokens are unknown too, the reservation is charged.
    """
    charged = 0.0
    for attempt in record.attempts:
        if attempt.cost_usd is not None:
            charged += attempt.cost_usd
        elif attempt.price_source is None and attempt.usage is not None and cost.ceiling is not None:
            charged += cost.ceiling.usd(attempt.usage)
        else:
            return max(charged, reserved_usd)
    return charged
