"""Answers one request, from its decision to its ledger row. Read this file first.

Choose a tier, let tier 1 draft, let the gate judge, fall back to the frontier, settle the cost. Each step is one line
here, a pure function in `routing/` and a field of the trace.
"""

import asyncio
from collections.abc import AsyncGenerator
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
    Tier,
)
from serving.cascade.exchange import Exchange
from serving.cascade.gated_draft import GatedDraft
from serving.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    FrontierRateLimited,
    FrontierUnavailable,
    QueueFull,
    RouterFailed,
)
from serving.request.frame import Frame

FRONTIER_DOWN = (FrontierUnavailable, FrontierRateLimited, DeadlineExceeded)


async def answer(exchange: Exchange) -> AsyncGenerator[Frame, None]:
    """Answer one request. A draft that the gate rejects is replaced before its first byte leaves.

    Yields the frames that the client may see.
    Raises a StackError. Before the first frame it becomes the HTTP status, after it an error frame.
    Closing the generator stops everything that runs for the request, in every process.
    """
    trace = exchange.trace
    draft: GatedDraft | None = None
    try:
        trace.decision = await choose_tier(exchange)
        if trace.decision.tier is Tier.TIER1:
            draft = GatedDraft(exchange)
            async with aclosing(draft.release()) as frames:  # yields nothing when the draft is rejected
                async for frame in frames:
                    yield trace.release(frame)
        if not trace.has_served(Tier.TIER1):
            async with aclosing(frontier_or_degraded(exchange, draft)) as frames:
                async for frame in frames:
                    yield trace.release(frame)
    except BaseException as error:
        trace.fail(error)
        raise
    finally:
        exchange.settle(trace.settle())  # only puts it in a queue, and runs for failed and cancelled requests too


async def choose_tier(exchange: Exchange) -> Decision:
    """Explicit rules decide first. The router is asked only about the requests that they leave open."""
    call, tiers, config = exchange.call, exchange.tiers, exchange.sections
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
    p_router = await router_score(exchange)
    if decision is not None:
        return decision.model_copy(update={"p_router": p_router})
    if config.learned.router is not None:
        return decide_by_head(call.target, call.body, call.api, call.features, p_router, config.learned, config.policy)
    return decide_by_score(call.target, call.features, p_router, config.policy)


async def router_score(exchange: Exchange) -> float | None:
    """p(tier 1 is good enough). None when the router is absent, down, full or slow: the policy decides without it."""
    router = exchange.tiers.router
    if router is None:
        return None
    try:
        with exchange.trace.attempt(AttemptKind.ROUTER, Tier.ROUTER, router.model) as booking:
            async with asyncio.timeout(exchange.sections.cascade.router_timeout_s):
                score = await router.score(exchange.call)
            booking.settle_score(score)
            booking.outcome = AttemptOutcome.USED
            return score.p_yes
    except (RouterFailed, QueueFull, TimeoutError):
        return None  # the failed attempt's row is counted


async def frontier_or_degraded(exchange: Exchange, draft: GatedDraft | None) -> AsyncGenerator[Frame, None]:
    """The frontier's answer. When no provider has one: the draft, marked degraded, if the policy allows it.

    draft: what tier 1 wrote and the gate rejected. None: tier 1 was not asked.
    """
    trace = exchange.trace
    try:
        async with aclosing(exchange.tiers.frontier.complete(exchange.call, trace)) as frames:
            async for frame in frames:
                trace.served = trace.booking(AttemptKind.FRONTIER)
                yield frame
    except FRONTIER_DOWN:
        if trace.released is not None or not may_degrade(exchange):
            raise
        async with aclosing((draft or GatedDraft(exchange)).release_degraded()) as frames:
            async for frame in frames:
                yield frame
        if not trace.has_served(Tier.TIER1):
            raise


def may_degrade(exchange: Exchange) -> bool:
    """Whether tier 1 may answer when the frontier is down.

    The configuration must allow it, the prompt must fit, and the client must not have named the frontier.
    """
    call = exchange.call
    return (
        exchange.sections.cascade.degrade_when_frontier_down
        and call.target is not RequestedModel.FRONTIER
        and call.features.input_tokens < exchange.tiers.tier1.max_context_tokens
    )
