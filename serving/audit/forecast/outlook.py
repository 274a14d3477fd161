"""Conclusions: what the traffic costs now, what it would cost in tiers, from which volume on, and what is not known."""

from collections.abc import Iterable

from pydantic import Field

from routing.records import Record
from serving.audit.forecast.amortisation import MONTH_HOURS, EngineRent
from serving.audit.forecast.assumptions import ASSUMED, Assumptions
from serving.audit.forecast.break_even import BreakEven, Plan, break_even
from serving.audit.forecast.fleet import TYPICAL_WAIT_SLO_UTILISATION, Fleet, size_fleet
from serving.audit.forecast.stack_cost import StackCost, TieredMix, Traffic, stack_cost
from serving.audit.forecast.tier1_share import Tier1Share, tier1_share
from serving.audit.traffic.accounts import Sum
from serving.audit.traffic.survey import Survey

DAY_HOURS, WEEK_HOURS = 24.0, 168.0
GPU_PRICE_FACTORS = (0.25, 0.5, 1.5, 2.0)
TOKEN_FACTORS = (0.5, 2.0, 4.0)
TARGETS = (0.90, 0.95, 0.99)


class Scenario(Record):
    """The tiered stack if tier 1 keeps that share. Dollars are of the log's span. None: not known."""

    name: str
    kept_ratio: float
    fleet: Fleet | None
    hit_ratio: float = Field(description="input tokens found in the fleet's prefix caches. 0 when nothing is known")
    utilisation_ratio: float = Field(description="of the rented replicas. Assumed when the log has no times")
    cost: StackCost | None = Field(description="tier-1 layers carry the rent of the fleet that stands all the time")
    total_usd: float | None
    scaled_total_usd: float | None = Field(description="the same with replicas rented hour by hour")
    saved_ratio: float | None = Field(description="of today's bill. Negative: it costs more")
    break_even: BreakEven | None = Field(description="requests a month. None: no volume pays, or cost unknown")


class Sensitivity(Record):
    """The expected scenario with one value changed."""

    changed: str
    kept_ratio: float
    break_even_requests: int | None = Field(description="a month, for good. None: no volume pays")
    saved_ratio: float | None


class Outlook(Record):
    """Everything the audit concludes."""

    traffic: Traffic | None = Field(description="answered requests whose price is known. None: none of them")
    priced_ratio: float = Field(description="share of the requests whose price is known")
    now_usd: float | None
    month_factor: float | None = Field(description="months of 730 hours over the log's span")
    hit_ratio: float | None = Field(description="prefix cache of one replica. None: no prompts in the log")
    share: Tier1Share
    scenarios: tuple[Scenario, ...]
    sensitivity: tuple[Sensitivity, ...]
    unknown: tuple[str, ...]


def look_ahead(survey: Survey, assumed: Assumptions, share: Tier1Share, bad_rows: int) -> Outlook:
    """Conclude. share: of tier 1 at the target, from an artefact or from public measurements."""
    everything = total(survey.accounts.by(lambda _: None).values())
    answered = everything.requests - everything.failed
    traffic, priced_ratio = priced_traffic(survey)
    scenarios = [
        scenario(name, kept, survey, traffic, priced_ratio, assumed)
        for name, kept in (("low", share.low), ("expected", share.expected), ("high", share.high))
    ]
    span_s = survey.arrivals.span_s
    return Outlook(
        traffic=traffic,
        priced_ratio=priced_ratio,
        now_usd=None if traffic is None else traffic.frontier_usd,
        month_factor=None if span_s is None else MONTH_HOURS * 3600 / span_s,
        hit_ratio=survey.reuse.hit_ratio() if survey.reuse is not None else None,
        share=share,
        scenarios=tuple(scenarios),
        sensitivity=tuple(sensitivities(survey, traffic, priced_ratio, share, assumed)),
        unknown=tuple(unknowns(survey, everything, answered, assumed, share, bad_rows)),
    )


def total(sums: Iterable[Sum]) -> Sum:
    """Several sums as one."""
    result = Sum(usd=None)
    for each in sums:
        result.add(each)
    return result


def priced_traffic(survey: Survey) -> tuple[Traffic | None, float]:
    """(the answered requests whose price is known, their share of all answered ones).

    A ledger's requests are compared at what they would have cost at the frontier, as the ledger has it.
    """
    priced, requests = Sum(usd=None), 0
    if survey.at_frontier.requests:
        booked = survey.at_frontier
        traffic = Traffic(
            requests=booked.requests,
            input_tokens=booked.input_tokens,
            output_tokens=booked.output_tokens,
            frontier_usd=booked.usd or 0.0,
        )
        return traffic, min(booked.requests / max(1, survey.requests - survey.failed), 1.0)
    for _, cell in survey.accounts.rows():
        requests += cell.requests - cell.failed
        if cell.usd is not None:
            priced.add(cell)
    answered = priced.requests - priced.failed
    if priced.usd is None or not answered:
        return None, 0.0
    traffic = Traffic(
        requests=answered,
        input_tokens=priced.input_tokens,
        output_tokens=priced.output_tokens,
        frontier_usd=priced.usd,
        warm_discount_usd=priced.warm_discount_usd,
    )
    return traffic, answered / requests


def scenario(
    name: str,
    kept: float,
    survey: Survey,
    traffic: Traffic | None,
    priced_ratio: float,
    assumed: Assumptions,
) -> Scenario:
    """The scenario of one share on tier 1, up to the bill and the break-even volume."""
    mix = TieredMix(
        kept_ratio=kept, rejected_ratio=(1 - kept) * assumed.drafted_ratio, shadow_ratio=assumed.shadow_ratio
    )
    worked = mix.kept_ratio + mix.rejected_ratio
    # The comparison is of priced requests only, so the fleet is sized for their share. Without any, for all.
    fleet, hit_ratio = size_with_caches(survey, worked * (priced_ratio or 1.0), assumed)
    utilisation = TYPICAL_WAIT_SLO_UTILISATION if fleet is None else max(fleet.fixed_utilisation_ratio, 1e-9)
    if traffic is None:
        return Scenario(
            name=name,
            kept_ratio=kept,
            fleet=fleet,
            hit_ratio=hit_ratio,
            utilisation_ratio=utilisation,
            cost=None,
            total_usd=None,
            scaled_total_usd=None,
            saved_ratio=None,
            break_even=None,
        )
    rent = EngineRent(
        usd_per_hour=assumed.replica_usd_per_hour, utilisation_ratio=utilisation, source=assumed.replica_price_source
    )
    cost = stack_cost(traffic, mix, rent, assumed.rates, assumed.router_usd_per_request, hit_ratio)
    scaled = None
    if fleet is not None:
        idle = fleet.fixed_hours - fleet.scaled_hours
        scaled = cost.total_usd - idle * assumed.replica_usd_per_hour
    return Scenario(
        name=name,
        kept_ratio=kept,
        fleet=fleet,
        hit_ratio=hit_ratio,
        utilisation_ratio=utilisation,
        cost=cost,
        total_usd=cost.total_usd,
        scaled_total_usd=scaled,
        saved_ratio=1 - cost.total_usd / traffic.frontier_usd if traffic.frontier_usd else None,
        break_even=break_even(plan_of(traffic, cost, utilisation, assumed)),
    )


def size_with_caches(survey: Survey, share: float, assumed: Assumptions) -> tuple[Fleet | None, float]:
    """(fleet, share of the input tokens that its caches hold).

    Replicas hold more together than one of them, and with more hits fewer replicas do. So the fleet is sized with one
    cache first, then with what that many hold, unless the smaller fleet that comes out would not hold as much.
    """
    one = survey.reuse.pooled_hit_ratio(assumed.min_replicas) if survey.reuse is not None else 0.0
    fleet = size_fleet(survey.arrivals, share, one, assumed)
    if fleet is None or survey.reuse is None:
        return fleet, one
    pooled = survey.reuse.pooled_hit_ratio(fleet.peak_replicas)
    smaller = size_fleet(survey.arrivals, share, pooled, assumed)
    if smaller is None or survey.reuse.pooled_hit_ratio(smaller.peak_replicas) < pooled:
        return fleet, one
    return smaller, pooled


def plan_of(traffic: Traffic, cost: StackCost, utilisation: float, assumed: Assumptions) -> Plan:
    """The monthly choice per request.

    Replicas fill up to what the arrival pattern allows at the log's own volume, but at least to half. The fleet of a
    small log is nearly idle only because it has one replica at least, and volume fills it. Beyond 0.85 waits grow.
    """
    return Plan(
        now_usd=traffic.frontier_usd / traffic.requests,
        paid_usd=(cost.frontier_usd + cost.shadow_usd + cost.router_usd) / traffic.requests,
        busy_s=cost.busy_s / traffic.requests,
        replica_usd_per_hour=assumed.replica_usd_per_hour,
        max_utilisation_ratio=min(max(utilisation, TYPICAL_WAIT_SLO_UTILISATION), 0.85),
        min_replicas=assumed.min_replicas,
    )


def sensitivities(
    survey: Survey,
    traffic: Traffic | None,
    priced_ratio: float,
    share: Tier1Share,
    assumed: Assumptions,
) -> Iterable[Sensitivity]:
    """The expected scenario under other GPU prices, targets and prompt lengths."""
    if traffic is None:
        return

    def row(changed: str, kept: float, traffic: Traffic, assumed: Assumptions) -> Sensitivity:
        found = scenario(changed, kept, survey, traffic, priced_ratio, assumed)
        even = found.break_even
        return Sensitivity(
            changed=changed,
            kept_ratio=kept,
            break_even_requests=None if even is None else even.for_good_requests,
            saved_ratio=found.saved_ratio,
        )

    yield row("as assumed", share.expected, traffic, assumed)
    for factor in GPU_PRICE_FACTORS:
        usd = assumed.replica_usd_per_hour * factor
        dearer = assumed.model_copy(update={"replica_usd_per_hour": usd})
        yield row(f"GPU at ${usd:.2f} an hour", share.expected, traffic, dearer)
    if share == tier1_share(assumed.target, assumed.relative_quality):
        for target in TARGETS:
            kept = tier1_share(target, assumed.relative_quality).expected
            yield row(f"quality target {target:.2f}", kept, traffic, assumed)
    for factor in TOKEN_FACTORS:
        # Longer requests are as many tokens more for tier 1 and as many dollars more at the provider.
        rates = assumed.rates.model_copy(
            update={
                "prefill_tokens_per_s": assumed.rates.prefill_tokens_per_s / factor,
                "decode_tokens_per_s": assumed.rates.decode_tokens_per_s / factor,
            }
        )
        longer = traffic.model_copy(
            update={
                "frontier_usd": traffic.frontier_usd * factor,
                "warm_discount_usd": traffic.warm_discount_usd * factor,
            }
        )
        slower = assumed.model_copy(update={"rates": rates})
        yield row(f"requests {factor:g} times as long", share.expected, longer, slower)


def unknowns(
    survey: Survey, everything: Sum, answered: int, assumed: Assumptions, share: Tier1Share, bad_rows: int
) -> Iterable[str]:
    """What the log and the options do not say, in sentences."""
    if everything.unpriced_calls:
        yield (
            f"The price of {everything.unpriced_calls:,} of {everything.calls:,} calls is unknown (their model, or "
            "their service tier); they are left out of every dollar here. --prices FILE names prices of models."
        )
    if bad_rows:
        yield f"{bad_rows:,} lines could not be read and are in no figure; --bad-rows FILE names each."
    if everything.estimated:
        yield f"{everything.estimated:,} calls report no usage; their tokens are estimated at four bytes a token."
    if everything.failed:
        yield f"{everything.failed:,} requests failed; they count as requests and cost nothing unless the log says so."
    yield (
        f"How much tier 1 can keep is not in a log. The share comes from {share.source}; grade a few hundred requests "
        "of your own and train a router on them to know it."
    )
    if assumed.relative_quality is None and share.source == tier1_share(assumed.target).source:
        yield "How good tier 1 is on this traffic is unknown (--relative-quality), which is most of the spread."
    yield from unknown_hardware(survey, assumed)
    yield from unknown_texts(survey, answered)


def unknown_hardware(survey: Survey, assumed: Assumptions) -> Iterable[str]:
    """Times, rates and prices of machines."""
    arrivals, span_s = survey.arrivals, survey.arrivals.span_s
    if arrivals.untimed:
        yield f"{arrivals.untimed:,} requests carry no time; the fleet is sized without them."
    if span_s is None:
        yield "The log has no times: replicas and GPU hours are unknown, and half-used replicas are assumed."
    elif span_s < DAY_HOURS * 3600:
        yield f"The log covers {span_s / 3600:.1f} hours: nights and weekends, which lower utilisation, are not in it."
    elif span_s < WEEK_HOURS * 3600:
        yield f"The log covers {span_s / 3600 / 24:.1f} days: a weekend may be missing."
    if assumed.rates.source == ASSUMED:
        yield (
            f"Tier 1 is assumed to prefill {assumed.rates.prefill_tokens_per_s:,.0f} and decode "
            f"{assumed.rates.decode_tokens_per_s:,.0f} tokens/s a replica; measure yours, or give its ledger: --pilot."
        )
    if assumed.replica_price_source == ASSUMED:
        yield f"A replica is assumed to cost ${assumed.replica_usd_per_hour:.2f} an hour (--gpu-usd-per-hour)."
    yield f"A score is taken to cost ${assumed.router_usd_per_request:.6f}; people's time is not counted."


def unknown_texts(survey: Survey, answered: int) -> Iterable[str]:
    """Prompts and categories."""
    reuse = survey.reuse
    if reuse is None or not reuse.requests:
        yield "The log holds no prompts: prefix reuse is unknown and counted as none."
    else:
        yield (
            "Prefix reuse is that of caches which see every request; a tier that answers a part of a conversation "
            "finds less of it, and answers kept in the cache would add a little."
        )
    kept = survey.sample.kept
    if kept and all(sampled.category is None for sampled in kept):
        yield "The log holds neither categories nor texts: kinds of work are unknown."
    elif survey.sample.seen > len(kept) and any(key.category is None for key, _ in survey.accounts.rows()):
        yield f"Categories that the log does not name are those of a sample of {len(kept):,} of {answered:,} requests."
    yield "Tokens are the provider's; tier 1's tokenizer may count 10 to 30 % more or fewer."
