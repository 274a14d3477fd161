"""Decide which tier a request goes to first: explicit rules, then the router's score against a threshold.

The rules, first match wins: the tier the client asked for, the only tier the request fits, the tenant's pin, the pin
for tools, the category's pin. What no rule decides, the router's score does.
"""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from routing.records import Decision, DecisionReason, Record, RequestedModel, RequestFeatures, Tier

HOLD_PATTERN = r"^(full|off|prefix\(\d{1,6}\))$"
ADAPTER_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"  # it is part of the model's name in answers
BASE_MODEL: Final = "base"  # where an adapter is named: none


class HoldKind(StrEnum):
    """How much of a draft is kept back from the client."""

    FULL = "full"  # until the verdict
    PREFIX = "prefix"  # until n tokens were watched and found good
    OFF = "off"  # nothing: the gate can no longer replace a bad draft


class HoldPolicy(Record):
    """A parsed hold policy. tokens is 0 unless kind is PREFIX."""

    kind: HoldKind
    tokens: int = Field(0, ge=0)


class CategoryPolicy(Record):
    """What differs for one category of requests. None inherits the default."""

    tier: Literal[Tier.TIER1, Tier.FRONTIER] | None = Field(
        None, description="always this tier. None: let the score decide"
    )
    threshold: float | None = Field(None, ge=0, le=1, description="go to tier 1 when p_tier1_ok >= threshold")
    hold: str | None = Field(None, pattern=HOLD_PATTERN, description="full, prefix(n tokens) or off. None inherits")
    quality_target: float | None = Field(None, ge=0, le=1, description="of this category. None inherits")
    adapter: str | None = Field(
        None, min_length=1, description="name of one of policy.adapters, or base for none. None inherits"
    )


class PolicyConfig(Record):
    """How requests are divided between the tiers: cost against quality."""

    artefact: Path | None = Field(
        None, description="folder of a trained router head. Its thresholds then replace the three below"
    )
    quality_target: float = Field(
        0.98,
        ge=0,
        le=1,
        description="share of the frontier's quality to keep. Must be one that the artefacts were calibrated for",
    )
    default_threshold: float = Field(0.5, ge=0, le=1)
    cheap_offset: float = Field(-0.2, ge=-1, le=0, description="added to the threshold for model auto:cheap")
    quality_offset: float = Field(0.2, ge=0, le=1, description="added to the threshold for model auto:quality")
    no_score_tier: Literal[Tier.TIER1, Tier.FRONTIER] = Field(
        Tier.FRONTIER, description="where a request goes when the router did not answer (fail closed)"
    )
    tools_tier: Literal[Tier.TIER1, Tier.FRONTIER] | None = Field(None, description="pin for requests that bring tools")
    tenant_pins: dict[str, Literal[Tier.TIER1, Tier.FRONTIER]] = Field(default_factory=dict)
    min_output_tokens: int = Field(
        256, ge=1, description="room an answer needs when the client set no limit (about 190 English words)"
    )
    default_hold: str = Field("full", pattern=HOLD_PATTERN)
    adapters: dict[Annotated[str, Field(pattern=ADAPTER_PATTERN)], Path] = Field(
        default_factory=dict, description="folders of tier 1's LoRA adapters by name. tier1.lora loads them"
    )
    default_adapter: str = Field(BASE_MODEL, description="of categories that name none. base: tier 1 as it is")
    categories: dict[str, CategoryPolicy] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _named_adapters_exist(self) -> Self:
        if BASE_MODEL in self.adapters:
            raise ValueError(f"{BASE_MODEL!r} means no adapter. Give the adapter another name")
        named = {"default_adapter": self.default_adapter} | {
            f"categories.{name}.adapter": category.adapter for name, category in self.categories.items()
        }
        for key, adapter in named.items():
            if adapter is not None and adapter != BASE_MODEL and adapter not in self.adapters:
                raise ValueError(f"{key}: {adapter!r} is not among adapters: {', '.join(self.adapters) or 'none'}")
        return self


class ContextTooLong(ValueError):
    """The request fits no tier it may go to.

    needed_tokens: input plus the output that was asked for, or plus PolicyConfig.min_output_tokens.
    limits_tokens: context length of every tier that was considered.
    """

    def __init__(self, needed_tokens: int, input_tokens: int, limits_tokens: dict[Tier, int]) -> None:
        self.needed_tokens = needed_tokens
        self.input_tokens = input_tokens
        self.limits_tokens = limits_tokens
        limits = ", ".join(f"{tier} takes {limit}" for tier, limit in limits_tokens.items())
        super().__init__(
            f"the request needs {needed_tokens} tokens ({input_tokens} of input and "
            f"{needed_tokens - input_tokens} for the answer), but {limits}; shorten the input or lower the output limit"
        )


def needed_tokens(features: RequestFeatures, config: PolicyConfig) -> int:
    """Context length the request needs: its input plus the client's output limit, or plus the minimum."""
    return features.input_tokens + (features.max_output_tokens or config.min_output_tokens)


def decide_by_rules(
    requested: RequestedModel,
    features: RequestFeatures,
    tenant: str,
    tier1_context_tokens: int,
    frontier_context_tokens: int,
    config: PolicyConfig,
) -> Decision | None:
    """The tier that a rule settles, or None when the router has to be asked.

    Raises ContextTooLong when the request fits neither tier, or not the one tier that the client asked for.
    """
    needed = needed_tokens(features, config)
    limits = {Tier.TIER1: tier1_context_tokens, Tier.FRONTIER: frontier_context_tokens}
    if requested in (RequestedModel.TIER1, RequestedModel.FRONTIER):
        limits = {Tier(requested.value): limits[Tier(requested.value)]}
    fitting = [tier for tier, limit in limits.items() if needed <= limit]
    if not fitting:
        raise ContextTooLong(needed, features.input_tokens, limits)

    if len(limits) == 1:
        return Decision(tier=fitting[0], reason=DecisionReason.REQUESTED)
    if len(fitting) == 1:
        return Decision(tier=fitting[0], reason=DecisionReason.CONTEXT)
    if (pin := config.tenant_pins.get(tenant)) is not None:
        return Decision(tier=pin, reason=DecisionReason.TENANT_PIN)
    if features.n_tools and config.tools_tier is not None:
        return Decision(tier=config.tools_tier, reason=DecisionReason.TOOLS)
    category = config.categories.get(features.category)
    if category is not None and category.tier is not None:
        return Decision(tier=category.tier, reason=DecisionReason.CATEGORY)
    return None


def threshold(requested: RequestedModel, category: str, config: PolicyConfig) -> float:
    """What p_tier1_ok has to reach for tier 1, 0..1: the category's threshold plus the requested model's offset."""
    own = config.categories.get(category, CategoryPolicy()).threshold
    base = config.default_threshold if own is None else own
    offset = {
        RequestedModel.AUTO_CHEAP: config.cheap_offset,
        RequestedModel.AUTO_QUALITY: config.quality_offset,
    }.get(requested, 0.0)
    return min(max(base + offset, 0.0), 1.0)


def decide_by_score(
    requested: RequestedModel, features: RequestFeatures, p_tier1_ok: float | None, config: PolicyConfig
) -> Decision:
    """Tier 1 when p_tier1_ok reaches the threshold, else the frontier.

    p_tier1_ok: the router's probability that tier 1 will do, 0..1. None or not a probability: it did not answer.
    """
    needs = threshold(requested, features.category, config)
    if p_tier1_ok is None or math.isnan(p_tier1_ok) or not 0 <= p_tier1_ok <= 1:
        return Decision(tier=config.no_score_tier, reason=DecisionReason.NO_SCORE, threshold=needs)
    high = p_tier1_ok >= needs
    return Decision(
        tier=Tier.TIER1 if high else Tier.FRONTIER,
        reason=DecisionReason.SCORE_HIGH if high else DecisionReason.SCORE_LOW,
        p_tier1_ok=p_tier1_ok,
        threshold=needs,
        p_router=p_tier1_ok,
    )


def quality_target(
    requested: RequestedModel, category: str, calibrated: tuple[float, ...], config: PolicyConfig
) -> float:
    """The quality target of one request: its category's own, else the configured one.

    auto:cheap takes the next lower calibrated target and auto:quality the next higher one, where there is one.
    calibrated: ascending.
    """
    own = config.categories.get(category, CategoryPolicy()).quality_target
    target = config.quality_target if own is None else own
    if requested is RequestedModel.AUTO_CHEAP:
        return max((t for t in calibrated if t < target), default=target)
    if requested is RequestedModel.AUTO_QUALITY:
        return min((t for t in calibrated if t > target), default=target)
    return target


def adapter_of(category: str, config: PolicyConfig) -> str | None:
    """The adapter that drafts a category's requests, by its name in config.adapters. None: the model as it is."""
    name = config.categories.get(category, CategoryPolicy()).adapter or config.default_adapter
    return None if name == BASE_MODEL else name


def hold_policy(features: RequestFeatures, config: PolicyConfig) -> HoldPolicy:
    """How long a draft of this category is held back. prefix(0) is off."""
    text = config.categories.get(features.category, CategoryPolicy()).hold or config.default_hold
    kind, _, rest = text.partition("(")
    tokens = int(rest.rstrip(")")) if rest else 0
    if kind == HoldKind.PREFIX and tokens == 0:
        return HoldPolicy(kind=HoldKind.OFF)
    return HoldPolicy(kind=HoldKind(kind), tokens=tokens)
