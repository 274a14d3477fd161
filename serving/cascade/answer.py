"""The tour: one request from its decision to its ledger row.

Choose a tier, let tier 1 draft, let the gate rule, fall back to the frontier, settle the bill. A reader who has read
this file knows the product; every station is one line here, a pure function in `routing/` and a field of the trace.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from routing.gate.judge import explored
from routing.heads.decide import decide_by_head
from routing.ladder.policy import ContextTooLong, decide_by_rules, decide_by_score
from routing.records import (
    AttemptKind,
    AttemptOutcome,
    Decision,
    DecisionReason,
    RequestedModel,
    RequestRecord,
    Tier,
)
from serving.cascade.gated_draft import GatedDraft
from serving.cascade.sections import Sections
from serving.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    FrontierRateLimited,
    FrontierUnavailable,
    QueueFull,
    RouterFailed,
)
from serving.request.call import Call
from serving.request.frame import Frame
from serving.request.tiers import Tiers
from serving.request.trace import RequestTrace

FRONTIER_DOWN = (FrontierUnavailable, FrontierRateLimited, DeadlineExceeded)


async def answer(
    call: Call,
    tiers: Tiers,
    trace: RequestTrace,
    settle: Callable[[RequestRecord], None],
    config: Sections,
) -> AsyncGenerator[Frame, None]:
    """Answer one request; a draft the gate rejects is replaced before its first byte leaves.

    Yields the frames the client may see. Raises a StackError: before the first frame it becomes the HTTP status, after
    it an error frame. Closing the generator stops whatever runs for the request, wherever it runs.
    """
    draft = GatedDraft(call, tiers, trace, config.gate, config.draft, config.policy, config.learned)
    try:
        trace.decision = await choose_tier(call, tiers, trace, config)
        if trace.decision.tier is Tier.TIER1:
            async with aclosing(draft.release()) as frames:  # yields nothing when the draft is rejected
                async for frame in frames:
                    yield trace.release(frame)
        if not trace.has_served(Tier.TIER1):
            async with aclosing(frontier_or_degraded(call, tiers, trace, draft, config)) as frames:
                async for frame in frames:
                    yield trace.release(frame)
    except BaseException as error:
        trace.fail(error)
        raise
    finally:
        settle(trace.record())  # enqueues and returns; runs for failed and cancelled requests too


async def choose_tier(call: Call, tiers: Tiers, trace: RequestTrace, config: Sections) -> Decision:
    """Explicit rules first; only what they leave open is worth the router's time."""
    try:
        decision = decide_by_rules(
            call.target,
            call.features,
            call.tenant,
            tiers.tier1.max_context_tokens,
            tiers.frontier.max_context_tokens,
            config.policy,
        )
    except ContextTooLong as error:
        raise ContextLengthExceeded(str(error), param="messages") from error
    if decision is not None and call.capped_model is RequestedModel.TIER1:
        return decision.model_copy(update={"reason": DecisionReason.BUDGET})
    if decision is not None and not (decision.tier is Tier.TIER1 and explored(call.request_id, config.gate)):
        return decision
    p_router = await router_score(call, tiers, trace, config)
    if decision is not None:
        return decision.model_copy(update={"p_router": p_router})
    if config.learned.router is not None:
        return decide_by_head(call.target, call.body, call.api, call.features, p_router, config.learned, config.policy)
    return decide_by_score(call.target, call.features, p_router, config.policy)


async def router_score(call: Call, tiers: Tiers, trace: RequestTrace, config: Sections) -> float | None:
    """p(tier 1 will do), or None when the router is absent, down, full or slow: the policy knows what to do then."""
    if tiers.router is None:
        return None
    try:
        with trace.attempt(AttemptKind.ROUTER, Tier.ROUTER, tiers.router.model) as booking:
            async with asyncio.timeout(config.cascade.router_timeout_s):
                score = await tiers.router.score(call)
            booking.settle_score(score)
            booking.outcome = AttemptOutcome.USED
            return score.p_yes
    except (RouterFailed, QueueFull, TimeoutError):
        return None  # counted from the failed attempt's row


async def frontier_or_degraded(
    call: Call, tiers: Tiers, trace: RequestTrace, draft: GatedDraft, config: Sections
) -> AsyncGenerator[Frame, None]:
    """The frontier's answer; when none has one, the draft marked degraded if the policy allows."""
    try:
        async with aclosing(tiers.frontier.complete(call, trace)) as frames:
            async for frame in frames:
                trace.served = trace.booking(AttemptKind.FRONTIER)
                yield frame
    except FRONTIER_DOWN:
        if trace.released is not None or not may_degrade(call, tiers, config):
            raise
        async with aclosing(draft.release_degraded()) as frames:
            async for frame in frames:
                yield frame
        if not trace.has_served(Tier.TIER1):
            raise


def may_degrade(call: Call, tiers: Tiers, config: Sections) -> bool:
    """Whether tier 1 may stand in for the frontier: allowed, the frontier was not asked for by name, and it fits."""
    return (
        config.cascade.degrade_when_frontier_down
        and call.target is not RequestedModel.FRONTIER
        and call.features.input_tokens < tiers.tier1.max_context_tokens
    )
