"""Asks providers in order, with one retry budget, one deadline and a breaker each.

The next try may replace a failed one unseen while none of its content has been sent. Every try is booked on the trace.
"""

import asyncio
import hashlib
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from routing.records import Api, AttemptKind, AttemptOutcome, Tier, Usage
from serving.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    FrontierRateLimited,
    FrontierUnavailable,
    StackError,
    StreamBroken,
)
from serving.hosted.breaker import Breaker, BreakerState, Permit
from serving.hosted.config import FrontierConfig, ProviderConfig
from serving.hosted.faults import ABOUT_THE_REQUEST, ProviderFault, Reason, Remedy, Rule
from serving.hosted.legacy_completions import chat_body
from serving.hosted.partial_answer import Answer, estimate_tokens, has_content
from serving.hosted.providers.anthropic_provider import AnthropicProvider
from serving.hosted.providers.openai_provider import OpenAIProvider
from serving.hosted.providers.provider import Piece, Provider, ProviderRequest
from serving.hosted.retry import FailedTry, next_try
from serving.request.call import Call
from serving.request.frame import Frame
from serving.request.trace import RequestTrace

log = logging.getLogger(__name__)

TOO_SLOW = {
    Reason.TTFT_TIMEOUT: Rule(Reason.TTFT_TIMEOUT, Remedy.ELSEWHERE, True),
    Reason.IDLE_TIMEOUT: Rule(Reason.IDLE_TIMEOUT, Remedy.ELSEWHERE, True),
    Reason.DEADLINE: Rule(Reason.DEADLINE, Remedy.STOP, False),  # the request was late, not necessarily the provider
}
CUT = Rule(Reason.CUT, Remedy.RETRY, True)
PROBE_BODY = {"messages": [{"role": "user", "content": "1"}], "max_completion_tokens": 1}


class FrontierObserver(Protocol):
    """Hears what went wrong, so that it can be counted. Providers and reasons are closed sets."""

    def try_failed(self, provider: str, reason: Reason) -> None:
        """One try failed, whatever became of the request."""
        ...

    def breaker_changed(self, provider: str, state: BreakerState) -> None:
        """A provider's breaker opened, let a probe through or closed."""
        ...


class Unobserved:
    """Counts nothing."""

    def try_failed(self, provider: str, reason: Reason) -> None:
        """See FrontierObserver."""

    def breaker_changed(self, provider: str, state: BreakerState) -> None:
        """See FrontierObserver."""


class HostedClient:
    """serving.request.tiers.FrontierModel over real providers. Build once, `aclose()` at the end.

    clock: of the breakers, so that a test can pass its own. count_tokens: only for usage that no provider reported.
    """

    def __init__(
        self,
        config: FrontierConfig,
        *,
        observer: FrontierObserver | None = None,
        clock: Callable[[], float] = time.perf_counter,
        count_tokens: Callable[[str], int] = estimate_tokens,
    ) -> None:
        self._config, self._count_tokens = config, count_tokens
        self._observer = observer or Unobserved()
        self._lanes = [_Lane(self._build(provider), self._breaker(provider, clock)) for provider in config.providers]
        self.model = config.providers[0].model  # answers unless its provider is down
        self.max_context_tokens = max(provider.max_context_tokens for provider in config.providers)

    async def complete(self, call: Call, trace: RequestTrace) -> AsyncGenerator[Frame, None]:
        """See FrontierModel. Also raises InvalidRequest for what no provider can do, such as a prompt of token ids."""
        request = provider_request(call)
        fits = [lane.fits(call) for lane in self._lanes]
        if not any(fits):
            raise ContextLengthExceeded(
                f"{call.features.input_tokens} input tokens and {call.features.max_output_tokens or 1} for the answer "
                f"do not fit the frontier's {self.max_context_tokens}; shorten the conversation or lower max_tokens",
                param="messages",
            )
        failed: list[FailedTry] = []
        faults: list[ProviderFault] = []
        while True:
            usable = [fit and lane.breaker.allows() for fit, lane in zip(fits, self._lanes, strict=True)]
            chosen = next_try(
                failed,
                usable,
                time.perf_counter(),
                call.deadline,
                self._config,
                random.random(),  # noqa: S311
            )
            if chosen is None:
                raise self._final_error(faults, call.deadline) from (faults[-1] if faults else None)
            await asyncio.sleep(chosen.wait_s)
            lane = self._lanes[chosen.lane]
            permit = lane.breaker.acquire()
            if permit is None:
                continue  # it opened, or another request took the probe, while this one waited
            released = False
            try:
                async with aclosing(self._try(lane.provider, permit, call, request, trace, len(failed) + 1)) as frames:
                    async for frame in frames:
                        released = True
                        yield frame
                return
            except ProviderFault as fault:
                log.warning(
                    "frontier try failed",
                    extra={
                        "request_id": call.request_id,
                        "provider": fault.provider,
                        "reason": fault.reason,
                        "status": fault.status,
                        "try": len(failed) + 1,
                    },
                )
                if released:
                    raise StreamBroken(f"{fault} after part of the answer was sent; the answer is cut") from fault
                faults.append(fault)
                failed.append(FailedTry(chosen.lane, fault.remedy, time.perf_counter(), fault.retry_after_s))

    async def probe(self) -> None:
        """See FrontierModel. Asks providers in order until one answers, which also closes a half-open breaker.

        It costs one token, which is not booked.
        """
        faults: list[ProviderFault] = []
        for lane in self._lanes:
            permit = lane.breaker.acquire()
            if permit is not None:
                try:
                    return await self._probe(lane.provider, permit)
                except ProviderFault as fault:
                    faults.append(fault)
        raise self._final_error(faults, math.inf) from (faults[-1] if faults else None)

    async def aclose(self) -> None:
        """Close every provider's connections."""
        for lane in self._lanes:
            await lane.provider.aclose()

    async def _try(
        self,
        provider: Provider,
        permit: Permit,
        call: Call,
        request: ProviderRequest,
        trace: RequestTrace,
        try_number: int,
    ) -> AsyncGenerator[Frame, None]:
        """One try at one provider, booked whatever its result. Raises ProviderFault."""
        config = provider.config
        answer = Answer(call, config.model, self._count_tokens)
        released, lost_to = False, None
        with trace.attempt(AttemptKind.FRONTIER, Tier.FRONTIER, config.model, config.name, try_number) as booking:
            try:
                try:
                    async with aclosing(self._pieces(provider, request, answer, call.deadline)) as pieces:
                        async for piece in pieces:
                            for frame in answer.take(piece):
                                booking.see(frame)
                                released = True
                                yield frame
                except ProviderFault:
                    if not answer.complete:  # after the finish reason only the end marker and the counts can be missing
                        raise
                if not answer.complete:
                    raise ProviderFault(config.name, CUT)
                permit.succeeded()
                last = answer.last_frame()
                booking.see(last)
                booking.outcome = AttemptOutcome.SERVED
                yield last
            except ProviderFault as fault:
                lost_to = fault
                self._observer.try_failed(config.name, fault.reason)
                if fault.counts:
                    permit.failed()
                booking.outcome = AttemptOutcome.BROKEN if released else AttemptOutcome.FAILED
                booking.error = StreamBroken.code if released else fault.client_error().code
                raise
            finally:
                permit.release()
                booking.first_token, booking.model = answer.first_content, answer.model
                if booking.outcome is not AttemptOutcome.SERVED:
                    booking.usage = usage_of_lost_try(answer, call, lost_to)

    async def _pieces(
        self, provider: Provider, request: ProviderRequest, answer: Answer, deadline: float
    ) -> AsyncGenerator[Piece, None]:
        """The provider's pieces while it keeps sending content. Raises ProviderFault when it falls silent.

        Only content ends a silence, so pings do not extend a limit. Only the time that we wait counts as silence, so
        a slow reader does not use the limit up.
        """
        patience_s, reason = self._config.ttft_timeout_s, Reason.TTFT_TIMEOUT
        async with aclosing(provider.stream(request)) as pieces:
            while True:
                began, content = time.perf_counter(), answer.last_content
                try:
                    async with asyncio.timeout(min(patience_s, deadline - began)):
                        piece = await anext(pieces)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if deadline - began < patience_s:
                        reason = Reason.DEADLINE
                    raise ProviderFault(provider.config.name, TOO_SLOW[reason]) from None
                patience_s -= time.perf_counter() - began
                yield piece
                if answer.last_content != content:
                    patience_s, reason = self._config.idle_timeout_s, Reason.IDLE_TIMEOUT

    async def _probe(self, provider: Provider, permit: Permit) -> None:
        """One token from one provider. Raises ProviderFault."""
        name = provider.config.name
        try:
            async with asyncio.timeout(self._config.ttft_timeout_s):
                async with aclosing(provider.stream(ProviderRequest(PROBE_BODY, "probe", ""))) as pieces:
                    if not any([piece.chunk is not None and has_content(piece.chunk) async for piece in pieces]):
                        raise ProviderFault(name, CUT)
            permit.succeeded()
        except TimeoutError:
            permit.failed()
            raise ProviderFault(name, TOO_SLOW[Reason.TTFT_TIMEOUT]) from None
        except ProviderFault as fault:
            if fault.counts:
                permit.failed()
            raise
        finally:
            permit.release()

    def _final_error(self, faults: Sequence[ProviderFault], deadline: float) -> StackError:
        """What the client is told when there is no further try to make."""
        reasons = {fault.reason for fault in faults}
        waits = [fault.retry_after_s for fault in faults if fault.retry_after_s is not None]
        if faults and (faults[-1].remedy is Remedy.STOP or reasons <= ABOUT_THE_REQUEST):
            return faults[-1].client_error()
        if reasons == {Reason.RATE_LIMITED}:
            return FrontierRateLimited(
                "every provider is rate limited; retry later", retry_after_s=min(waits, default=None)
            )
        if time.perf_counter() >= deadline:
            return DeadlineExceeded("the request's time was up before a provider could answer")
        if not faults:
            waits = [lane.breaker.rest_s for lane in self._lanes]
            return FrontierUnavailable(
                "every provider failed lately and is left alone for a while", retry_after_s=min(waits)
            )
        said = "; ".join(dict.fromkeys(str(fault) for fault in faults))
        return FrontierUnavailable(f"no provider could answer: {said}", retry_after_s=min(waits, default=None))

    def _build(self, config: ProviderConfig) -> Provider:
        if config.kind == "anthropic":
            return AnthropicProvider(config, self._config.connect_timeout_s, self._count_tokens)
        return OpenAIProvider(config, self._config.connect_timeout_s)

    def _breaker(self, config: ProviderConfig, clock: Callable[[], float]) -> Breaker:
        def changed(state: BreakerState) -> None:
            log.warning("breaker changed", extra={"provider": config.name, "state": state})
            self._observer.breaker_changed(config.name, state)

        return Breaker(config.breaker, clock, changed)


@dataclass(frozen=True, slots=True)
class _Lane:
    """One provider with its breaker. Requests try them in the configured order."""

    provider: Provider
    breaker: Breaker

    def fits(self, call: Call) -> bool:
        """Whether input and requested output fit the context. Counted in tier 1's tokens, the only count we have."""
        config = self.provider.config
        wanted = call.features.max_output_tokens or 1
        if config.max_output_tokens is not None:
            wanted = min(wanted, config.max_output_tokens)
        return call.features.input_tokens + wanted <= config.max_context_tokens


def provider_request(call: Call) -> ProviderRequest:
    """The request for every provider. Raises InvalidRequest for a prompt that no chat provider takes."""
    body = chat_body(call.body) if call.api is Api.COMPLETIONS else call.body
    whose = f"{call.cache_salt}:{call.session_id or ''}".encode()
    return ProviderRequest(body, call.request_id, hashlib.sha256(whose).hexdigest()[:32])


def usage_of_lost_try(answer: Answer, call: Call, fault: ProviderFault | None) -> Usage | None:
    """The usage that a try which did not serve is billed for. fault: None when we closed the call for the client.

    Content that came is billed. We estimate it where the provider had no time to count.
    A provider that failed before its first content bills nothing.
    A provider whose call we closed may bill the prompt, so the more expensive case is booked.
    """
    if answer.first_content is not None:
        return answer.usage()
    if fault is None or fault.reason in TOO_SLOW:
        used = answer.usage()
        return used.model_copy(update={"output_tokens": 0, "estimated": True})
    return None
