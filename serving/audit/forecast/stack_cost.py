"""What a tiered stack costs for a given traffic, in layers that add up: router, drafts, gate waste, frontier, shadow.

The counterpart of the ledger's bill, computed before there is one. Layers are in dollars. What is unknown stays None.
"""

from pydantic import Field

from routing.records import Record
from serving.audit.forecast.amortisation import EngineRates, EngineRent


class Traffic(Record):
    """So many requests with so many tokens, and what they cost where they go today."""

    requests: float = Field(ge=0)
    input_tokens: float = Field(ge=0)
    output_tokens: float = Field(ge=0)
    frontier_usd: float = Field(ge=0, description="today's bill for all of them")
    warm_discount_usd: float = Field(0.0, ge=0, description="what the provider's prompt cache takes off that bill")

    def scaled(self, requests: float = 1.0, tokens: float = 1.0) -> "Traffic":
        """The same traffic, more or less of it: `requests` times as many, each `tokens` times as long."""
        both = requests * tokens
        return Traffic(
            requests=self.requests * requests,
            input_tokens=self.input_tokens * both,
            output_tokens=self.output_tokens * both,
            frontier_usd=self.frontier_usd * both,
            warm_discount_usd=self.warm_discount_usd * both,
        )


class TieredMix(Record):
    """Where the requests go. Shares of all requests. The rest, neither kept nor drafted in vain, is routed away."""

    kept_ratio: float = Field(ge=0, le=1, description="answered by tier 1")
    rejected_ratio: float = Field(0.0, ge=0, le=1, description="drafted, then rejected: paid twice")
    shadow_ratio: float = Field(0.0, ge=0, le=1, description="sampled answers of tier 1 that the frontier answers too")

    @property
    def escalated_ratio(self) -> float:
        """Share that the frontier answers."""
        return 1 - self.kept_ratio


class StackCost(Record):
    """One bill, by layer."""

    router_usd: float
    drafts_usd: float = Field(description="tier-1 work that reached the client")
    gate_waste_usd: float = Field(description="tier-1 work that was thrown away")
    frontier_usd: float
    shadow_usd: float
    busy_s: float = Field(description="tier-1 replica seconds, wasted ones included")

    @property
    def total_usd(self) -> float:
        """The sum of the layers."""
        return self.router_usd + self.drafts_usd + self.gate_waste_usd + self.frontier_usd + self.shadow_usd


def stack_cost(
    traffic: Traffic,
    mix: TieredMix,
    rent: EngineRent,
    rates: EngineRates,
    router_usd_per_request: float,
    hit_ratio: float = 0.0,
) -> StackCost:
    """The bill of the tiered stack.

    hit_ratio: measured share of the input tokens that tier 1 finds in its prefix cache, 0..1.
    The provider's prompt cache gets colder as turns stay away from it. An escalated request finds its prefix warm only
    when the turn before it was escalated too. So the escalated share of its cache discount remains.
    Shadow answers pay today's mean price without that discount.
    """
    if mix.kept_ratio + mix.rejected_ratio > 1 + 1e-9:
        raise ValueError(f"kept {mix.kept_ratio} and rejected {mix.rejected_ratio} are more than all requests")
    work_s = rates.busy_s(traffic.input_tokens * (1 - hit_ratio), traffic.output_tokens, traffic.requests)
    cold_usd = traffic.frontier_usd + traffic.warm_discount_usd
    escalated = mix.escalated_ratio
    return StackCost(
        router_usd=traffic.requests * router_usd_per_request,
        drafts_usd=mix.kept_ratio * work_s * rent.usd_per_busy_s,
        gate_waste_usd=mix.rejected_ratio * work_s * rent.usd_per_busy_s,
        frontier_usd=escalated * (cold_usd - escalated * traffic.warm_discount_usd),
        shadow_usd=mix.kept_ratio * mix.shadow_ratio * cold_usd,
        busy_s=(mix.kept_ratio + mix.rejected_ratio) * work_s,
    )


def shadow_ratio_for(budget_usd: float, traffic: Traffic, kept_ratio: float) -> float:
    """The largest share of tier-1 answers that a shadow budget can have answered by the frontier too, 0..1."""
    at_most_usd = kept_ratio * (traffic.frontier_usd + traffic.warm_discount_usd)
    return 1.0 if at_most_usd <= budget_usd else budget_usd / at_most_usd
