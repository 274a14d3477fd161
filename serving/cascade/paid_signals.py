"""Asks models for extra evidence about a draft: the router model's verdict, and further samples of tier 1.

Each is an attempt of its own in the ledger and ends with the request. If a model does not answer, the gate rejects the
draft.
"""

import asyncio
from contextlib import aclosing
from dataclasses import replace

from routing.records import AttemptKind, AttemptOutcome, DraftEvidence, Signal, Tier
from routing.text.answers import agreement_of
from serving.cascade.exchange import Exchange
from serving.errors import InvalidRequest, QueueFull, RouterFailed, Tier1Failed

# What a sample does not take from the request: the gate sets how it is drawn, and nobody reads its logprobs.
NOT_SAMPLED = frozenset({"n", "temperature", "top_p", "seed", "logprobs", "top_logprobs"})


async def ask_for(signal: Signal, exchange: Exchange, evidence: DraftEvidence) -> DraftEvidence:
    """The evidence with one more signal, or with a note that it was asked for in vain.

    A failure of the model raises nothing.
    """
    evidence = evidence.model_copy(update={"asked": (*evidence.asked, signal)})
    try:
        async with asyncio.timeout(exchange.sections.draft.judge_timeout_s):
            if signal is Signal.VERDICT:
                return evidence.model_copy(update={"p_judge_ok": await verdict(exchange, evidence)})
            samples = await draw_samples(exchange)
            return evidence.model_copy(update={"agreement": agreement_of(evidence.choices[0].text, samples)})
    except (RouterFailed, Tier1Failed, QueueFull, InvalidRequest, TimeoutError):
        return evidence  # the failed attempt's row is counted


async def verdict(exchange: Exchange, evidence: DraftEvidence) -> float | None:
    """p(the draft is good) of the worst choice. Every choice is judged. None without a router."""
    router = exchange.tiers.router
    if router is None:
        return None
    said = []
    for choice in evidence.choices:
        with exchange.trace.attempt(AttemptKind.JUDGE, Tier.ROUTER, router.model) as booking:
            score = await router.judge(exchange.call, choice.text)
            booking.settle_score(score)
            booking.outcome = AttemptOutcome.USED
            said.append(score.p_yes)
    return min(said, default=None)


async def draw_samples(exchange: Exchange) -> list[str]:
    """Further answers of tier 1 to the same prompt. One call draws them all, so the prompt is computed once at most."""
    call, tier1, gate = exchange.call, exchange.tiers.tier1, exchange.sections.gate
    texts = [""] * gate.n_samples
    body = {name: value for name, value in call.body.items() if name not in NOT_SAMPLED}
    drawn = replace(
        call,
        request_id=f"{call.request_id}-samples",
        body={**body, "n": gate.n_samples, "temperature": gate.sample_temperature},
        stream=False,
    )
    with exchange.trace.attempt(AttemptKind.SAMPLE, Tier.TIER1, tier1.model) as booking:
        async with aclosing(tier1.draft(drawn)) as frames:
            async for frame in frames:
                booking.see(frame)
                texts[frame.choice] += frame.text
        booking.outcome = AttemptOutcome.USED
    return texts
