"""What an attempt costs and what it would have cost at the frontier. Dollars; an unknown price is None, never 0."""

from pydantic import Field

from routing.schema import Record, Tier, Usage


class TokenPrice(Record):
    """Dollars per million tokens, with where and when they were read."""

    input_usd: float = Field(ge=0)
    output_usd: float = Field(ge=0)
    cached_input_usd: float | None = Field(None, ge=0, description="None: cached tokens cost the input price")
    cache_write_usd: float | None = Field(None, ge=0, description="None: writing costs the input price")
    source: str = Field(min_length=1, description="where the price was read")
    as_of: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")


class CostConfig(Record):
    """Prices of everything a request can use."""

    frontier: dict[str, TokenPrice] = Field(default_factory=dict, description="by 'provider/model', exact")
    baseline: str | None = Field(None, description="key of `frontier` that the all-frontier counterfactual uses")
    engine_usd_per_hour: dict[Tier, float] = Field(
        default_factory=dict, description="what one replica of our own tier costs while busy, by tier"
    )
    engine_price_source: str = "unset"
    ceiling: TokenPrice | None = Field(None, description="budgets assume this when a price is unknown")


def attempt_cost(
    tier: Tier, provider: str, model: str, usage: Usage | None, engine_s: float | None, config: CostConfig
) -> tuple[float | None, str | None]:
    """(dollars, source) of one attempt; see tests. Written by the money part."""
    raise NotImplementedError


def baseline_cost(usage: Usage | None, config: CostConfig) -> float | None:
    """What the same tokens would have cost at the frontier with a warm provider cache."""
    raise NotImplementedError
