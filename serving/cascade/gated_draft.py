"""Holds the draft's frames back until the gate has judged it, then releases all of them or none.

`full` holds the whole draft, `prefix(n)` its first n tokens, `off` nothing. The gate reads the draft token by token. A
draft that is sure to be rejected is aborted in the engine at once, so that the frontier starts earlier.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from routing.gate.judge import explored
from routing.gate.watch import DraftWatch
from routing.heads.decide import LearnedGate, ruling
from routing.ladder.policy import HoldKind, hold_policy
from routing.records import AttemptKind, AttemptOutcome, DecisionReason, RejectReason, Signal, Tier, Verdict
from serving.cascade.exchange import Exchange
from serving.cascade.paid_signals import ask_for
from serving.errors import QueueFull, StreamBroken, Tier1Failed
from serving.request.frame import Frame
from serving.request.trace import Booking, RequestTrace


class GatedDraft:
    """One tier-1 draft and its gate. After `release`, `trace.verdict` says what happened to it."""

    def __init__(self, exchange: Exchange) -> None:
        call, sections = exchange.call, exchange.sections
        self._exchange = exchange
        self._policy = hold_policy(call.features, sections.policy)
        self._learned: LearnedGate | None = None
        if sections.learned.gate is not None:
            self._learned = LearnedGate(
                sections.learned.gate,
                call.target,
                call.body,
                call.api,
                call.features,
                sections.policy,
                may_ask_router=exchange.tiers.router is not None,
            )
        self._watch = DraftWatch(sections.gate, call.features)
        self._held: list[Frame] = []
        self._complete = False

    async def release(self) -> AsyncGenerator[Frame, None]:
        """Draft and yield the frames that may be shown. Yields nothing when the draft is aborted, rejected or failed.

        When the client asked for tier 1 by name, its frames are released as they come. The verdict is only recorded.

        Raises StreamBroken when tier 1 fails after frames were released.
        Raises Tier1Failed when it was asked for by name and fails.
        Raises QueueFull when it is full and may not spill.
        Raises InvalidRequest when the engine refuses the request itself.
        """
        exchange, trace, policy = self._exchange, self._exchange.trace, self._policy
        alone = asked_for_alone(trace)
        releasing = alone or policy.kind is HoldKind.OFF
        with trace.attempt(AttemptKind.DRAFT, Tier.TIER1, exchange.tiers.tier1.model) as booking:
            try:
                async with aclosing(self._frames()) as frames:
                    async for frame in frames:
                        booking.see(frame)
                        lost = self._observe(frame)
                        if releasing:
                            yield self._serve(booking, frame)
                            continue
                        self._hold(frame)
                        if lost is not None:
                            booking.outcome = AttemptOutcome.ABORTED
                            trace.verdict = Verdict(accepted=False, reasons=(lost,))
                            return
                        if policy.kind is HoldKind.PREFIX and self._watch.tokens >= policy.tokens:
                            releasing = True
                            trace.verdict = Verdict(accepted=True)
                            for ready in self._held:
                                yield self._serve(booking, ready)
                self._complete = True
            except (Tier1Failed, QueueFull, TimeoutError) as error:
                booking.error = getattr(error, "code", "tier1_timeout")
                if releasing and trace.released is not None and exchange.call.stream:
                    booking.outcome = AttemptOutcome.BROKEN
                    raise StreamBroken("tier 1 failed after part of its answer was sent; the answer is cut") from error
                trace.take_back()  # a whole answer leaves in one piece at its end, so the client has seen nothing of it
                booking.outcome = AttemptOutcome.FAILED
                if isinstance(error, QueueFull) and not exchange.sections.draft.spill_when_full:
                    raise
                if alone:
                    raise Tier1Failed(f"tier 1 was asked for by name and did not answer: {error}") from error
                trace.verdict = Verdict(accepted=False, reasons=(failure_reason(error),))
                return
            booking.outcome = AttemptOutcome.SERVED
            if releasing:  # too late to act on, but recorded: it shows how many bad answers the policy lets through
                trace.verdict = await self._rule(shown=True)
                return
            booking.ended = time.perf_counter()  # the time of the judge does not count as the draft's
            trace.verdict = await self._rule()
            if not trace.verdict.accepted:
                booking.outcome = AttemptOutcome.REJECTED
                trace.rejected_text = self._watch.evidence().choices[0].text
                return
            booking.outcome = None  # not SERVED before the last frame has left, because the client may leave earlier
            for frame in self._held:
                yield self._serve(booking, frame)
            booking.outcome = AttemptOutcome.SERVED

    async def release_degraded(self) -> AsyncGenerator[Frame, None]:
        """Yield the complete draft although the gate rejected it, because the frontier is down.

        Without a draft tier 1 drafts now. Yields nothing when there is no complete draft to show.
        """
        trace = self._exchange.trace
        trace.degraded = True
        if trace.verdict is None:
            async with aclosing(self.release()) as frames:
                async for frame in frames:
                    yield frame
        booking = trace.booking(AttemptKind.DRAFT)
        if self._complete and booking is not None and not trace.has_served(Tier.TIER1):
            for frame in self._held:
                yield self._serve(booking, frame)
            booking.outcome = AttemptOutcome.SERVED
        trace.degraded = trace.has_served(Tier.TIER1)

    async def _frames(self) -> AsyncGenerator[Frame, None]:
        """The engine's frames, each within its timeout. Raises TimeoutError."""
        exchange, config = self._exchange, self._exchange.sections.draft
        timeout_s = config.first_token_timeout_s
        async with aclosing(exchange.tiers.tier1.draft(exchange.call)) as frames:
            while True:
                try:
                    async with asyncio.timeout(timeout_s):
                        frame = await anext(frames)
                except StopAsyncIteration:
                    return
                yield frame
                if frame.n_tokens or frame.text:
                    timeout_s = config.idle_timeout_s

    def _observe(self, frame: Frame) -> RejectReason | None:
        lost = self._watch.observe(frame.choice, frame.text, frame.logprobs, frame.n_tokens)
        if frame.finish_reason is not None:
            lost = self._watch.finish(frame.choice, frame.finish_reason, frame.tool_calls) or lost
        return lost

    def _hold(self, frame: Frame) -> None:
        trace = self._exchange.trace
        if trace.held_since is None:
            trace.held_since = time.perf_counter()
        if frame.data is not None:
            self._held.append(frame)

    def _serve(self, booking: Booking, frame: Frame) -> Frame:
        self._exchange.trace.served = booking
        return frame

    async def _rule(self, *, shown: bool = False) -> Verdict:
        """Run the cheap checks first. A paid signal is asked for only where it can still change the verdict.

        shown: the client already has the draft, so the verdict is only recorded. Requests in the exploration share
        still collect every signal.
        """
        call, gate, evidence = self._exchange.call, self._exchange.sections.gate, self._watch.evidence()
        explores = explored(call.request_id, gate)
        while True:
            verdict, signal = ruling(call.body, call.features, evidence, gate, self._learned)
            if shown or signal is None:
                signal = next((s for s in Signal if s not in evidence.asked), None) if explores else None
            if signal is None:
                return verdict
            evidence = await ask_for(signal, self._exchange, evidence)


def asked_for_alone(trace: RequestTrace) -> bool:
    """Whether the client or its budget chose tier 1, which then answers alone: no gate, no fallback."""
    alone = (DecisionReason.REQUESTED, DecisionReason.BUDGET)
    return trace.decision is not None and trace.decision.reason in alone


def failure_reason(error: Exception) -> RejectReason:
    """Why there is no draft, as the gate's verdict names it."""
    if isinstance(error, QueueFull):
        return RejectReason.TIER1_BUSY
    return RejectReason.TIER1_TIMEOUT if isinstance(error, TimeoutError) else RejectReason.TIER1_FAILED
