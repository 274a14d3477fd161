"""Computes the volume from which a tiered stack pays. Rent comes in whole replicas, the saving in single requests."""

import math

from pydantic import Field

from routing.records import Record
from serving.audit.forecast.amortisation import HOUR_S, MONTH_HOURS


class Plan(Record):
    """The figures that decide, per request and per replica."""

    now_usd: float = Field(ge=0, description="per request, today")
    paid_usd: float = Field(ge=0, description="per request in the tiered stack besides the rent: frontier, shadow")
    busy_s: float = Field(ge=0, description="tier-1 replica seconds per request, all requests counted")
    replica_usd_per_hour: float = Field(ge=0)
    max_utilisation_ratio: float = Field(0.6, gt=0, le=1, description="busy share that still keeps the latency SLO")
    min_replicas: int = Field(1, ge=0, description="2 for a tier that survives the loss of one")
    fixed_usd_per_hour: float = Field(0.0, ge=0, description="router, gateway: rented whatever the volume")
    hours: float = Field(MONTH_HOURS, gt=0, description="rented per period. Volumes are per period")

    @property
    def replica_requests(self) -> float:
        """Requests that one replica carries in a period."""
        return math.inf if self.busy_s == 0 else self.hours * HOUR_S * self.max_utilisation_ratio / self.busy_s

    def replicas(self, requests: float) -> int:
        """Replicas that are rented for a volume."""
        return max(self.min_replicas, math.ceil(requests / self.replica_requests - 1e-9))

    def tiered_usd(self, requests: float) -> float:
        """The tiered stack's bill for a volume."""
        rent = self.replicas(requests) * self.replica_usd_per_hour + self.fixed_usd_per_hour
        return requests * self.paid_usd + rent * self.hours

    def saved_usd(self, requests: float) -> float:
        """Today's bill minus the tiered one. Negative is a loss."""
        return requests * self.now_usd - self.tiered_usd(requests)


class BreakEven(Record):
    """Volumes per period. first: from here it pays. for_good: from here it never loses again.

    They differ because the next requests must first earn each further replica.
    """

    first_requests: int
    for_good_requests: int


def break_even(plan: Plan) -> BreakEven | None:
    """The break-even volume of a plan. None when no volume reaches it.

    With N replicas rented, the saving s per request covers the rent from v = (N * rent + fixed) / s on, if N replicas
    carry v. A full replica must earn more than its rent. Otherwise volume only makes the loss larger.
    """
    saving_usd = plan.now_usd - plan.paid_usd
    if saving_usd <= 0:
        return None
    rent_usd, fixed_usd = plan.replica_usd_per_hour * plan.hours, plan.fixed_usd_per_hour * plan.hours
    carried = plan.replica_requests
    fewest = max(1, plan.min_replicas)  # some volume is asked about, so something is rented
    if math.isinf(carried):
        needed = math.ceil((fewest * rent_usd + fixed_usd) / saving_usd - 1e-9)
        return BreakEven(first_requests=needed, for_good_requests=needed)
    margin_usd = saving_usd * carried - rent_usd
    if margin_usd <= 0:
        return None
    # First: the smallest fleet that can carry the volume at which it pays, N * carried >= (N * rent + fixed) / saving.
    first_fleet = max(fewest, math.ceil(fixed_usd / margin_usd - 1e-9))
    # For good: the largest fleet that loses at its smallest volume, saving * carried * (N - 1) < N * rent + fixed.
    last_fleet = max(first_fleet, math.ceil((saving_usd * carried + fixed_usd) / margin_usd - 1e-9) - 1)
    return BreakEven(
        first_requests=_pays_from(plan, first_fleet, saving_usd),
        for_good_requests=_pays_from(plan, last_fleet, saving_usd),
    )


def _pays_from(plan: Plan, replicas: int, saving_usd: float) -> int:
    """The smallest volume at which so many replicas are rented and pay."""
    rent_usd = (replicas * plan.replica_usd_per_hour + plan.fixed_usd_per_hour) * plan.hours
    smallest = 0 if replicas <= plan.min_replicas else math.floor((replicas - 1) * plan.replica_requests) + 1
    return max(smallest, math.ceil(rent_usd / saving_usd - 1e-9))
