"""Decide which tier a request goes to first: explicit rules, then the router's score against a threshold."""

from typing import Literal

from pydantic import Field

from routing.schema import Record, Tier


class CategoryPolicy(Record):
    """What differs for one category of requests; None inherits the default."""

    tier: Literal[Tier.TIER1, Tier.FRONTIER] | None = Field(None, description="always this tier; None: let the score decide")
    threshold: float | None = Field(None, ge=0, le=1, description="go to tier 1 when p_tier1_ok >= threshold")
    hold: str | None = Field(None, pattern=r"^(full|off|prefix\(\d+\))$", description="hold policy; see serving/hold.py")


class PolicyConfig(Record):
    """The dial between cost and quality."""

    default_threshold: float = Field(0.5, ge=0, le=1)
    cheap_offset: float = Field(-0.2, ge=-1, le=0, description="added to the threshold for model auto:cheap")
    quality_offset: float = Field(0.2, ge=0, le=1, description="added to the threshold for model auto:quality")
    no_score_tier: Literal[Tier.TIER1, Tier.FRONTIER] = Field(
        Tier.FRONTIER, description="where a request goes when the router did not answer (fail closed)"
    )
    tools_tier: Literal[Tier.TIER1, Tier.FRONTIER] | None = Field(None, description="pin for requests that bring tools")
    tenant_pins: dict[str, Literal[Tier.TIER1, Tier.FRONTIER]] = Field(default_factory=dict)
    default_hold: str = Field("full", pattern=r"^(full|off|prefix\(\d+\))$")
    categories: dict[str, CategoryPolicy] = Field(default_factory=dict)
