"""Buy the dear signals on a draft: the router model's verdict, and further samples of tier 1.

Each is an attempt of its own in the ledger and ends with the request. What cannot be had is evidence too: the gate
reads a missing answer as a reason to reject.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from routing.gate.config import GateConfig
from routing.records import AttemptKind, AttemptOutcome, DraftEvidence, Signal, Tier
from routing.text.answers import agreement_of
from serving.errors import InvalidRequest, QueueFull, RouterFailed, Tier1Failed
from serving.request.call import Call
from serving.request.frame import Frame
from serving.request.tiers import RouterModel, Tiers
from serving.request.trace import RequestTrace

# What a sample may not inherit: it is drawn, not asked for, and nobody reads its logprobs.
NOT_SAMPLED = frozenset({"n", "temperature", "top_p", "seed", "logprobs", "top_logprobs"})


async def buy(
    signal: Signal,
    call: Call,
    tiers: Tiers,
    trace: RequestTrace,
    evidence: DraftEvidence,
    gate: GateConfig,
    timeout_s: float,
) -> DraftEvidence:
    """The evidence with one signal more, or with a note that it was asked for in vain. Never raises for a failure."""
    evidence = evidence.model_copy(update={"asked": (*evidence.asked, signal)})
    try:
        async with asyncio.timeout(timeout_s):
            if signal is Signal.VERDICT:
                return evidence.model_copy(update={"p_judge_ok": await verdict(call, tiers.router, trace, evidence)})
            samples = await draw_samples(call, tiers, trace, gate)
            return evidence.model_copy(update={"agreement": agreement_of(evidence.choices[0].text, samples)})
    except (RouterFailed, Tier1Failed, QueueFull, InvalidRequest, TimeoutError):
        return evidence  # counted from the failed attempt's row


async def verdict(call: Call, router: RouterModel | None, trace: RequestTrace, evidence: DraftEvidence) -> float | None:
    """p(the draft is good) of the worst choice, every one judged; None without a router."""
    if router is None:
        return None
    said = []
    for choice in evidence.choices:
        with trace.attempt(AttemptKind.JUDGE, Tier.ROUTER, router.model) as booking:
            score = await router.judge(call, choice.text)
            booking.settle_score(score)
            booking.outcome = AttemptOutcome.USED
            said.append(score.p_yes)
    return min(said, default=None)


async def draw_samples(call: Call, tiers: Tiers, trace: RequestTrace, gate: GateConfig) -> list[str]:
    """Further answers of tier 1 to the same prompt, drawn in one call, so that the prompt is computed once at most."""
    texts = [""] * gate.n_samples
    body = {name: value for name, value in call.body.items() if name not in NOT_SAMPLED}
    drawn = replace(
        call,
        request_id=f"{call.request_id}-samples",
        body={**body, "n": gate.n_samples, "temperature": gate.sample_temperature},
        stream=False,
    )
    with trace.attempt(AttemptKind.SAMPLE, Tier.TIER1, tiers.tier1.model) as booking:
        frames: AsyncGenerator[Frame, None] = tiers.tier1.draft(drawn)
        async with aclosing(frames):
            async for frame in frames:
                booking.see(frame)
                texts[frame.choice] += frame.text
        booking.outcome = AttemptOutcome.USED
    return texts
