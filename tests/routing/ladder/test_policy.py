import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from routing.ladder.policy import (
    CategoryPolicy,
    ContextTooLong,
    HoldKind,
    HoldPolicy,
    PolicyConfig,
    decide_by_rules,
    decide_by_score,
    hold_policy,
    needed_tokens,
    threshold,
)
from routing.records import DecisionReason, RequestedModel, RequestFeatures, Tier

TIER1_CONTEXT, FRONTIER_CONTEXT = 1_000, 4_000
AUTO, CHEAP, QUALITY = RequestedModel.AUTO, RequestedModel.AUTO_CHEAP, RequestedModel.AUTO_QUALITY
DIAL = (CHEAP, AUTO, QUALITY)


def request(
    category: str = "chat", input_tokens: int = 100, max_output_tokens: int | None = 100, n_tools: int = 0
) -> RequestFeatures:
    return RequestFeatures(
        category=category,
        input_tokens=input_tokens,
        max_output_tokens=max_output_tokens,
        n_messages=1,
        n_tools=n_tools,
    )


PINS = PolicyConfig(
    tools_tier=Tier.FRONTIER,
    tenant_pins={"thrifty": Tier.TIER1, "careful": Tier.FRONTIER},
    categories={"code": CategoryPolicy(tier=Tier.FRONTIER), "math": CategoryPolicy(threshold=0.9)},
)
LONG = request(input_tokens=2_000)

# In the order of the rules: each row would be decided otherwise by a later rule.
RULES = [
    # requested, tenant, features, tier, reason
    (RequestedModel.TIER1, "careful", request("code", n_tools=1), Tier.TIER1, DecisionReason.REQUESTED),
    (RequestedModel.FRONTIER, "thrifty", request(), Tier.FRONTIER, DecisionReason.REQUESTED),
    (RequestedModel.FRONTIER, "thrifty", LONG, Tier.FRONTIER, DecisionReason.REQUESTED),
    (AUTO, "thrifty", LONG, Tier.FRONTIER, DecisionReason.CONTEXT),
    (CHEAP, "thrifty", LONG, Tier.FRONTIER, DecisionReason.CONTEXT),
    (AUTO, "thrifty", request("code", n_tools=1), Tier.TIER1, DecisionReason.TENANT_PIN),
    (AUTO, "careful", request(), Tier.FRONTIER, DecisionReason.TENANT_PIN),
    (AUTO, "anyone", request("other", n_tools=1), Tier.FRONTIER, DecisionReason.TOOLS),
    (AUTO, "anyone", request("code"), Tier.FRONTIER, DecisionReason.CATEGORY),
]


@pytest.mark.parametrize(("requested", "tenant", "features", "tier", "reason"), RULES)
def test_the_first_rule_that_applies_decides(
    requested: RequestedModel, tenant: str, features: RequestFeatures, tier: Tier, reason: DecisionReason
) -> None:
    """Explicit rules and features alone decide."""
    decision = decide_by_rules(requested, features, tenant, TIER1_CONTEXT, FRONTIER_CONTEXT, PINS)
    assert decision is not None
    assert (decision.tier, decision.reason) == (tier, reason)
    assert decision.p_tier1_ok is None
    assert decision.threshold is None


@pytest.mark.parametrize("requested", DIAL)
@pytest.mark.parametrize("features", [request(), request("math"), request("never heard of"), request(n_tools=0)])
def test_what_no_rule_settles_is_left_to_the_router(requested: RequestedModel, features: RequestFeatures) -> None:
    assert decide_by_rules(requested, features, "anyone", TIER1_CONTEXT, FRONTIER_CONTEXT, PINS) is None


def test_without_pins_tools_and_tenants_decide_nothing() -> None:
    features = request("tools", n_tools=3)
    assert decide_by_rules(AUTO, features, "careful", TIER1_CONTEXT, FRONTIER_CONTEXT, PolicyConfig()) is None


@pytest.mark.parametrize(
    ("input_tokens", "max_output_tokens", "reason"),
    [
        (900, 100, None),  # fits to the token
        (901, 100, DecisionReason.CONTEXT),
        (744, None, None),  # 744 + the 256 an answer needs at least
        (745, None, DecisionReason.CONTEXT),
        (999, 1, None),
    ],
)
def test_a_request_too_long_for_tier_1_goes_to_the_frontier(
    input_tokens: int, max_output_tokens: int | None, reason: DecisionReason | None
) -> None:
    """Context too long for tier 1 but fits the frontier."""
    features = request(input_tokens=input_tokens, max_output_tokens=max_output_tokens)
    decision = decide_by_rules(AUTO, features, "anyone", TIER1_CONTEXT, FRONTIER_CONTEXT, PolicyConfig())
    assert (decision and decision.reason) == reason
    assert decision is None or decision.tier is Tier.FRONTIER


def test_a_request_that_only_tier_1_can_hold_goes_there() -> None:
    decision = decide_by_rules(AUTO, LONG, "anyone", FRONTIER_CONTEXT, TIER1_CONTEXT, PolicyConfig())
    assert decision is not None
    assert (decision.tier, decision.reason) == (Tier.TIER1, DecisionReason.CONTEXT)


@pytest.mark.parametrize(
    ("requested", "input_tokens", "limits"),
    [
        (AUTO, 5_000, {Tier.TIER1: TIER1_CONTEXT, Tier.FRONTIER: FRONTIER_CONTEXT}),
        (RequestedModel.TIER1, 2_000, {Tier.TIER1: TIER1_CONTEXT}),
        (RequestedModel.FRONTIER, 5_000, {Tier.FRONTIER: FRONTIER_CONTEXT}),
    ],
)
def test_a_request_that_fits_no_tier_it_may_use_is_refused_with_the_numbers(
    requested: RequestedModel, input_tokens: int, limits: dict[Tier, int]
) -> None:
    with pytest.raises(ContextTooLong) as caught:
        decide_by_rules(requested, request(input_tokens=input_tokens), "thrifty", TIER1_CONTEXT, FRONTIER_CONTEXT, PINS)
    assert caught.value.needed_tokens == input_tokens + 100
    assert caught.value.limits_tokens == limits
    for number in (input_tokens, input_tokens + 100, *limits.values()):
        assert str(number) in str(caught.value)


@given(
    requested=st.sampled_from(RequestedModel),
    input_tokens=st.integers(0, 10_000),
    max_output_tokens=st.none() | st.integers(1, 10_000),
    tenant=st.sampled_from(["thrifty", "careful", "anyone"]),
    category=st.sampled_from(["chat", "code", "math"]),
    n_tools=st.integers(0, 2),
    contexts=st.tuples(st.integers(1, 10_000), st.integers(1, 10_000)),
)
def test_no_rule_ever_sends_a_request_where_it_does_not_fit(
    requested: RequestedModel,
    input_tokens: int,
    max_output_tokens: int | None,
    tenant: str,
    category: str,
    n_tools: int,
    contexts: tuple[int, int],
) -> None:
    features = request(category, input_tokens, max_output_tokens, n_tools)
    limits = dict(zip((Tier.TIER1, Tier.FRONTIER), contexts, strict=True))
    needed = needed_tokens(features, PINS)
    refused: ContextTooLong | None = None
    try:
        decision = decide_by_rules(requested, features, tenant, *contexts, PINS)
    except ContextTooLong as error:
        refused = error
    if refused is not None:
        assert all(needed > limit for limit in refused.limits_tokens.values())
    else:
        tiers = limits if decision is None else {decision.tier}
        assert all(needed <= limits[tier] for tier in tiers)


@pytest.mark.parametrize(
    ("requested", "category", "expected"),
    [
        (AUTO, "chat", 0.5),
        (CHEAP, "chat", 0.3),
        (QUALITY, "chat", 0.7),
        (AUTO, "math", 0.9),
        (CHEAP, "math", 0.7),
        (QUALITY, "math", 1.0),  # 1.1 is no threshold
        (RequestedModel.TIER1, "chat", 0.5),
    ],
)
def test_the_threshold_is_the_category_s_moved_by_the_dial(
    requested: RequestedModel, category: str, expected: float
) -> None:
    assert threshold(requested, category, PINS) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("p_tier1_ok", "tier", "reason"),
    [
        (0.0, Tier.FRONTIER, DecisionReason.SCORE_LOW),
        (math.nextafter(0.5, 0), Tier.FRONTIER, DecisionReason.SCORE_LOW),
        (0.5, Tier.TIER1, DecisionReason.SCORE_HIGH),
        (1.0, Tier.TIER1, DecisionReason.SCORE_HIGH),
    ],
)
def test_a_score_that_reaches_the_threshold_stays_on_tier_1(
    p_tier1_ok: float, tier: Tier, reason: DecisionReason
) -> None:
    decision = decide_by_score(AUTO, request(), p_tier1_ok, PINS)
    assert (decision.tier, decision.reason) == (tier, reason)
    assert (decision.p_tier1_ok, decision.threshold) == (p_tier1_ok, 0.5)


@pytest.mark.parametrize("p_tier1_ok", [None, math.nan, -0.1, 1.1, math.inf])
@pytest.mark.parametrize("no_score_tier", [Tier.TIER1, Tier.FRONTIER])
def test_missing_score_uses_the_configured_tier(p_tier1_ok: float | None, no_score_tier: Tier) -> None:
    """Router dead. What is no probability counts as no score."""
    config = PolicyConfig.model_validate({"no_score_tier": no_score_tier})
    decision = decide_by_score(AUTO, request(), p_tier1_ok, config)
    assert (decision.tier, decision.reason, decision.p_tier1_ok) == (no_score_tier, DecisionReason.NO_SCORE, None)


def test_missing_score_fails_closed_by_default() -> None:
    """The default is the frontier."""
    assert decide_by_score(AUTO, request(), None, PolicyConfig()).tier is Tier.FRONTIER


unit = st.floats(0, 1)
configs = st.builds(
    PolicyConfig,
    default_threshold=unit,
    cheap_offset=st.floats(-1, 0),
    quality_offset=unit,
    categories=st.just({}) | st.builds(lambda t: {"chat": CategoryPolicy(threshold=t)}, unit),
)


@given(config=configs, requested=st.sampled_from(DIAL), low=unit, high=unit)
def test_a_higher_score_never_moves_a_request_off_tier_1(
    config: PolicyConfig, requested: RequestedModel, low: float, high: float
) -> None:
    low, high = sorted((low, high))
    if decide_by_score(requested, request(), low, config).tier is Tier.TIER1:
        assert decide_by_score(requested, request(), high, config).tier is Tier.TIER1


@given(config=configs, p_tier1_ok=unit)
def test_turning_the_dial_to_quality_never_moves_a_request_onto_tier_1(config: PolicyConfig, p_tier1_ok: float) -> None:
    on_tier1 = [decide_by_score(dial, request(), p_tier1_ok, config).tier is Tier.TIER1 for dial in DIAL]
    assert on_tier1 == sorted(on_tier1, reverse=True)


@given(config=configs, requested=st.sampled_from(DIAL))
def test_every_threshold_is_a_probability(config: PolicyConfig, requested: RequestedModel) -> None:
    assert 0 <= threshold(requested, "chat", config) <= 1


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("full", HoldPolicy(kind=HoldKind.FULL)),
        ("off", HoldPolicy(kind=HoldKind.OFF)),
        ("prefix(32)", HoldPolicy(kind=HoldKind.PREFIX, tokens=32)),
        ("prefix(0)", HoldPolicy(kind=HoldKind.OFF)),
    ],
)
def test_hold_policies_are_parsed(text: str, policy: HoldPolicy) -> None:
    assert hold_policy(request(), PolicyConfig(default_hold=text)) == policy
    assert hold_policy(request(), PolicyConfig(categories={"chat": CategoryPolicy(hold=text)})) == policy


def test_drafts_are_held_in_full_unless_someone_says_otherwise() -> None:
    config = PolicyConfig(categories={"chat": CategoryPolicy(hold="off"), "code": CategoryPolicy()})
    assert hold_policy(request("chat"), config).kind is HoldKind.OFF
    assert hold_policy(request("code"), config).kind is HoldKind.FULL
    assert hold_policy(request("math"), config).kind is HoldKind.FULL


@pytest.mark.parametrize("wrong", ["", "prefix", "prefix()", "prefix(-1)", "prefix(1", "FULL", "full "])
def test_a_misspelled_hold_policy_stops_the_start(wrong: str) -> None:
    """A bad configuration is refused as a whole."""
    with pytest.raises(ValidationError):
        PolicyConfig(default_hold=wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"default_threshold": 1.5},
        {"cheap_offset": 0.1},
        {"quality_offset": -0.1},
        {"no_score_tier": "router"},
        {"categories": {"chat": {"tier": "router"}}},
        {"categories": {"chat": {"treshold": 0.5}}},
    ],
)
def test_a_setting_out_of_range_or_misspelled_stops_the_start(wrong: dict[str, object]) -> None:
    """A bad configuration is refused as a whole."""
    with pytest.raises(ValidationError):
        PolicyConfig.model_validate(wrong)
