"""Dear signals: one attempt each, a failure is evidence, nothing outlives its request."""

import asyncio
import time

import pytest

from routing.cost.attempt import CostConfig
from routing.gate.config import GateConfig
from routing.ladder.policy import PolicyConfig
from routing.records import (
    Agreement,
    Api,
    AttemptKind,
    AttemptOutcome,
    ChoiceEvidence,
    DraftEvidence,
    RequestedModel,
    RequestFeatures,
    Signal,
)
from serving.cascade.exchange import Exchange
from serving.cascade.paid_signals import ask_for
from serving.cascade.sections import CascadeConfig, DraftConfig, Sections
from serving.errors import RouterFailed
from serving.request.call import Call
from serving.request.tiers import Tiers
from serving.request.trace import RequestTrace
from tests.journey.scripted import ScriptedRouter, ScriptedTier1
from tests.journey.test_no_leak import InstantFrontier

GATE = GateConfig(n_samples=2)
SECTIONS = Sections(PolicyConfig(), GATE, DraftConfig(judge_timeout_s=0.2), CascadeConfig())


def evidence(*texts: str) -> DraftEvidence:
    return DraftEvidence(choices=tuple(ChoiceEvidence(text=text, finish_reason="stop") for text in texts))


def new_trace() -> RequestTrace:
    call = Call(
        request_id="a" * 32, tenant="t", api=Api.CHAT, model=RequestedModel.AUTO,
        body={"messages": [{"role": "user", "content": "hello"}], "temperature": 0, "seed": 7, "max_tokens": 9},
        features=RequestFeatures(category="chat", input_tokens=3, n_messages=1),
        prompt_token_ids=[1, 2, 3], cache_salt="s", deadline=time.perf_counter() + 60, stream=True,
    )  # fmt: skip
    return RequestTrace(call, "hash", CostConfig())


async def bought(
    signal: Signal, trace: RequestTrace, router: ScriptedRouter | None, tier1: ScriptedTier1, draft: DraftEvidence
) -> DraftEvidence:
    tiers = Tiers(router=router, tier1=tier1, frontier=InstantFrontier())
    return await ask_for(signal, Exchange(trace, tiers, SECTIONS, settle=[].append), draft)


async def test_every_choice_is_judged_and_the_worst_counts() -> None:
    """A good first choice does not cover a bad second one."""
    trace, router = new_trace(), ScriptedRouter(verdict=0.7)
    got = await bought(Signal.VERDICT, trace, router, ScriptedTier1(), evidence("one", "two"))
    assert router.judged == ["one", "two"]
    assert got.p_judge_ok == 0.7
    assert [a.kind for a in trace.record().attempts] == [AttemptKind.JUDGE] * 2


async def test_samples_are_drawn_in_one_call_from_the_same_prompt() -> None:
    trace, tier1 = new_trace(), ScriptedTier1()
    tier1.samples = ("four", "five")
    got = await bought(Signal.SAMPLES, trace, None, tier1, evidence("four"))
    assert got.agreement == Agreement(n_samples=2, n_agree=1, n_rival=1)
    (asked,) = tier1.sampled
    assert asked.prompt_token_ids == trace.call.prompt_token_ids
    assert (asked.body["n"], asked.body["temperature"], asked.body["max_tokens"]) == (2, GATE.sample_temperature, 9)
    (attempt,) = trace.record().attempts
    assert (attempt.kind, attempt.outcome) == (AttemptKind.SAMPLE, AttemptOutcome.USED)
    assert attempt.usage is not None


@pytest.mark.parametrize("answer", [RouterFailed("dead"), None], ids=["dead", "silent"])
async def test_signal_that_fails_is_noted_as_asked_for(answer: Exception | None) -> None:
    trace = new_trace()
    got = await bought(Signal.VERDICT, trace, ScriptedRouter(verdict=answer), ScriptedTier1(), evidence("one"))
    assert (got.p_judge_ok, got.asked) == (None, (Signal.VERDICT,))
    (attempt,) = trace.record().attempts
    assert attempt.outcome in (AttemptOutcome.FAILED, AttemptOutcome.CANCELLED)


async def test_without_a_router_there_is_no_verdict() -> None:
    trace = new_trace()
    got = await bought(Signal.VERDICT, trace, None, ScriptedTier1(), evidence("one"))
    assert got.p_judge_ok is None
    assert trace.record().attempts == ()


async def test_samples_end_with_the_request() -> None:
    """A client that leaves while samples are drawn leaves nothing running."""
    trace, tier1 = new_trace(), ScriptedTier1()
    tier1.samples_wait = asyncio.Event()
    task = asyncio.create_task(bought(Signal.SAMPLES, trace, None, tier1, evidence("one")))
    await tier1.bell.until(lambda: tier1.running == 1, 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tier1.running == 0
    (attempt,) = trace.record().attempts
    assert attempt.outcome is AttemptOutcome.CANCELLED
