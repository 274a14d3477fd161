"""Not one byte of a rejected draft leaves: ten thousand rejected streams over generated drafts, every byte searched."""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator
from typing import Any

from routing.cost.attempt import CostConfig
from routing.gate.config import GateConfig
from routing.ladder.policy import PolicyConfig
from routing.records import (
    Api,
    AttemptKind,
    AttemptOutcome,
    RequestedModel,
    RequestFeatures,
    RequestRecord,
    Tier,
    Usage,
)
from serving.cascade.answer import answer
from serving.cascade.exchange import Exchange
from serving.cascade.sections import CascadeConfig, DraftConfig, Sections
from serving.gateway.response import AnswerResponse, ResponseConfig
from serving.request.call import Call
from serving.request.frame import Frame
from serving.request.tiers import Tiers
from serving.request.trace import RequestTrace
from tests.journey.scripted import BROKEN_ENGINE as BROKEN
from tests.journey.scripted import Draft, ScriptedRouter, ScriptedTier1, chunk

STREAMS = 10_000
MARK = "xq"  # begins every word of a draft and no word of the frontier's or of the wire format


class InstantFrontier:
    """A FrontierModel that answers at once."""

    model = "big"
    max_context_tokens = 100_000

    async def complete(self, call: Call, trace: RequestTrace) -> AsyncGenerator[Frame, None]:
        """Two chunks and usage."""
        with trace.attempt(AttemptKind.FRONTIER, Tier.FRONTIER, self.model, "up") as booking:
            booking.outcome = AttemptOutcome.SERVED
            yield Frame(data=chunk(call, {"content": "clean"}), text="clean", n_tokens=1)
            last = Frame(
                data=chunk(call, {}, "stop"), finish_reason="stop", usage=Usage(input_tokens=1, output_tokens=1)
            )
            booking.see(last)
            yield last

    async def probe(self) -> None:
        """Always up."""


def rejected_draft(dice: random.Random) -> Draft:
    """A draft that the gate must refuse, of random length and kind, every word of it marked."""
    words = [f"{MARK}{dice.randrange(10**6)}" for _ in range(dice.randrange(1, 60))]
    kind = dice.randrange(5)
    if kind == 0:  # runs into a loop after a good beginning
        return Draft(text=" ".join(words + [f"{MARK}again", f"{MARK}and"] * 120))
    if kind == 1:
        return Draft(text=f"I'm sorry, but I can't help with that. {' '.join(words)}")
    if kind == 2:
        return Draft(text=" ".join(words), finish_reason="length")
    if kind == 3:  # the engine dies somewhere
        return Draft(text=" ".join(words), error=BROKEN, fail_after=dice.randrange(len(words) + 1))
    return Draft(text=" ".join(words), logprob=-9.0)  # unsure of every token


def call_for(number: int) -> Call:
    """One streamed request."""
    return Call(
        request_id=f"{number:032x}",
        tenant="t",
        api=Api.CHAT,
        model=RequestedModel.AUTO,
        body={"messages": [{"role": "user", "content": "hello"}]},
        features=RequestFeatures(category="chat", input_tokens=3, n_messages=1),
        prompt_token_ids=[1, 2, 3],
        cache_salt="s",
        deadline=time.perf_counter() + 60,
        stream=True,
    )


async def stream_bytes(tier1: ScriptedTier1, number: int, rows: list[RequestRecord]) -> bytes:
    """Everything one client receives: the real cascade, hold and release around scripted tiers."""
    sections = Sections(
        PolicyConfig(), GateConfig(min_mean_logprob=-3.0, abort_window_logprob=-6.0), DraftConfig(), CascadeConfig()
    )
    call = call_for(number)
    trace = RequestTrace(call, "hash", CostConfig())
    tiers = Tiers(router=ScriptedRouter(), tier1=tier1, frontier=InstantFrontier())
    sent = bytearray()

    async def send(message: Any) -> None:
        sent.extend(message.get("body", b""))
        for name, value in message.get("headers", ()):
            sent.extend(name + value)

    async def receive() -> Any:
        await asyncio.Event().wait()

    response = AnswerResponse(
        answer(Exchange(trace, tiers, sections, rows.append)),
        stream=True,
        include_usage=True,
        headers=dict,
        metadata=trace.metadata,
        config=ResponseConfig(),
    )
    await response({"type": "http"}, receive, send)
    return bytes(sent)


async def test_ten_thousand_rejected_streams_leak_no_byte() -> None:
    dice = random.Random(20_261_121)
    tier1, rows = ScriptedTier1(), []
    for number in range(STREAMS):
        tier1.script(rejected_draft(dice))
        sent = await stream_bytes(tier1, number, rows)
        assert MARK.encode() not in sent, f"stream {number} leaked: {sent!r}"
        assert b"clean" in sent
        assert sent.endswith(b"data: [DONE]\n\n")
    assert len(rows) == STREAMS
    assert all(row.verdict is not None and not row.verdict.accepted for row in rows)
    assert {reason for row in rows if row.verdict for reason in row.verdict.reasons} >= {
        "loop", "refusal", "truncated", "tier1_failed", "logprob_collapse",
    }  # fmt: skip


async def test_the_search_would_find_a_leak() -> None:
    """The same drive over an accepted draft: its words are found, so the search can fail."""
    tier1 = ScriptedTier1().script(Draft(text=f"{MARK}1 {MARK}2 fine"))
    sent = await stream_bytes(tier1, 0, [])
    assert MARK.encode() in sent
    assert json.loads(sent.split(b"data: ")[1])["choices"]
