"""Scripted tier 1 and router: ordinary classes that answer from a queue with set times, in vLLM's wire format.

Each draft is a list of steps, one token a step; `running` and `aborted` are what an engine's gauges would show.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from routing.records import Api, ToolCall, Usage
from serving.errors import RouterFailed, StackError, Tier1Failed
from serving.request.call import Adapter, Call
from serving.request.frame import Frame, RouterScore
from serving.request.tiers import EngineStats
from tests.journey.upstream_wire import Bell

TIER1_MODEL = "scripted-tier1"


@dataclass(frozen=True, slots=True)
class Draft:
    """One scripted draft. One word with its leading space is one token.

    error, fail_after: raise it once that many tokens were given. gate: waited for before the first token.
    """

    text: str = "a fine answer"
    logprob: float = -0.1
    finish_reason: str = "stop"
    tool_calls: tuple[ToolCall, ...] = ()
    first_token_delay_s: float = 0.0
    token_delay_s: float = 0.0
    error: StackError | None = None
    fail_after: int = 0
    gate: asyncio.Event | None = None
    gate_after: int = 0

    @property
    def tokens(self) -> list[str]:
        """The text in tokens; joined they give it back."""
        words = self.text.split(" ")
        return [words[0], *(f" {word}" for word in words[1:])] if self.text else []


class ScriptedTier1:
    """A DraftEngine that plays drafts. `calls` holds every Call it was given."""

    model = TIER1_MODEL

    def __init__(self, default: Draft | None = None, max_context_tokens: int = 4096) -> None:
        self.default = default or Draft()
        self.max_context_tokens = max_context_tokens
        self.calls: list[Call] = []
        self.running = 0
        self.aborted = 0
        self.tokens_made = 0
        self.samples: tuple[str, ...] | None = ("a fine answer", "a fine answer")  # None: sampling fails
        self.samples_wait: asyncio.Event | None = None
        self.sampled: list[Call] = []
        self.probe_error: StackError | None = None
        self.loaded: list[Adapter] = []
        self.refuses_adapters: str | None = None
        self._queue: deque[Draft] = deque()
        self.bell = Bell()

    def served_as(self, call: Call) -> str:
        """The model's name, as an engine with adapters gives it."""
        return self.model if call.adapter is None else call.adapter.served_as

    def script(self, *drafts: Draft) -> Self:
        """Play these next, in order."""
        self._queue.extend(drafts)
        return self

    def always(self, draft: Draft) -> Self:
        """Play this whenever the queue is empty."""
        self.default = draft
        return self

    async def load_adapter(self, adapter: Adapter) -> str | None:
        """See tiers.DraftEngine; `refuses_adapters` says why not."""
        if self.refuses_adapters is None:
            self.loaded.append(adapter)
        return self.refuses_adapters

    async def draft(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Play the next script; further samples of an earlier call come from `samples`."""
        if call.request_id.endswith("-samples"):
            async for frame in self._sample(call):
                yield frame
            return
        draft = self._queue.popleft() if self._queue else self.default
        self.calls.append(call)
        self.running += 1
        self.bell.ring()
        finished = False
        try:
            if draft.error is not None and draft.fail_after == 0:
                raise draft.error
            async for frame in self._play(call, draft):
                yield frame
            finished = True
        finally:
            self.running -= 1
            self.aborted += not finished
            self.bell.ring()

    async def _sample(self, call: Call) -> AsyncGenerator[Frame, None]:
        self.sampled.append(call)
        self.running += 1
        self.bell.ring()
        try:
            if self.samples is None:
                raise BROKEN_ENGINE
            if self.samples_wait is not None:
                await self.samples_wait.wait()
            for choice, text in enumerate(self.samples):
                yield Frame(choice=choice, text=text, n_tokens=len(text.split()))
            usage = Usage(input_tokens=call.features.input_tokens, output_tokens=6, cached_tokens=0)
            yield Frame(usage=usage, engine_s=0.001, replica_id="r0", model=self.served_as(call))
        finally:
            self.running -= 1
            self.bell.ring()

    async def _play(self, call: Call, draft: Draft) -> AsyncGenerator[Frame, None]:
        started = time.perf_counter()
        usage = Usage(input_tokens=call.features.input_tokens, output_tokens=len(draft.tokens), cached_tokens=0)
        end = Frame(finish_reason=draft.finish_reason, tool_calls=draft.tool_calls)
        for index, token in enumerate(draft.tokens):
            if draft.error is not None and index >= draft.fail_after:
                raise draft.error
            if draft.gate is not None and index == draft.gate_after:
                await draft.gate.wait()
            await asyncio.sleep(draft.token_delay_s if index else draft.first_token_delay_s)
            self.tokens_made += 1
            self.bell.ring()
            yield Frame(
                data=chunk(call, {"content": token}) if call.stream else None,
                text=token,
                logprobs=(draft.logprob,),
                n_tokens=1,
            )
        if draft.error is not None:
            raise draft.error
        last: dict[str, Any] = {"usage": usage, "engine_s": time.perf_counter() - started, "replica_id": "r0"}
        last["model"] = self.served_as(call)
        if call.stream:
            delta = {"tool_calls": wire_calls(draft.tool_calls)} if draft.tool_calls else {}
            yield replace(end, data=chunk(call, delta, draft.finish_reason))
            yield Frame(data=chunk(call, None, usage=usage), **last)
        else:
            yield replace(end, data=body(call, draft, usage), **last)

    async def probe(self) -> None:
        """Raise what the test set."""
        if self.probe_error is not None:
            raise self.probe_error

    async def stats(self) -> EngineStats:
        """What its gauges show."""
        return EngineStats("r0", self.running, 0, 0.0, self.tokens_made, 0, 0, 0.0)

    async def until(self, *, running: int | None = None, tokens: int = 0, within_s: float = 5) -> None:
        """Wait until so many drafts run and so many tokens were made in all."""
        await self.bell.until(
            lambda: (running is None or self.running == running) and self.tokens_made >= tokens, within_s
        )


class ScriptedRouter:
    """A RouterModel with set answers; an Exception is raised, None waits for ever."""

    model = "scripted-router"

    def __init__(self, score: float | Exception | None = 0.9, verdict: float | Exception | None = 0.9) -> None:
        self.score_answer, self.judge_answer = score, verdict
        self.scored: list[Call] = []
        self.judged: list[str] = []
        self.bell = Bell()

    async def score(self, call: Call) -> RouterScore:
        """p(tier 1 will do)."""
        self.scored.append(call)
        self.bell.ring()
        return await self._say(self.score_answer)

    async def judge(self, call: Call, draft: str) -> RouterScore:
        """p(the draft is good)."""
        self.judged.append(draft)
        return await self._say(self.judge_answer)

    async def probe(self) -> None:
        """As healthy as its score."""
        if isinstance(self.score_answer, Exception):
            raise RouterFailed("scripted")

    async def stats(self) -> EngineStats:
        """Never busy."""
        return EngineStats("router0", 0, 0, 0.0, 0, 0, 0, 0.0)

    async def _say(self, answer: float | Exception | None) -> RouterScore:
        if answer is None:
            await asyncio.Event().wait()
        if isinstance(answer, Exception):
            raise answer
        return RouterScore(answer, Usage(input_tokens=10, output_tokens=1, cached_tokens=8), engine_s=0.001)


def wire_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Tool calls as OpenAI writes them."""
    return [
        {"index": i, "id": f"call_{i}", "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
        for i, c in enumerate(calls)
    ]


def chunk(call: Call, delta: dict[str, Any] | None, finish: str | None = None, usage: Usage | None = None) -> str:
    """One streamed chunk; delta None is the usage chunk without choices."""
    chat = call.api is Api.CHAT
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish}
    choice |= {"delta": delta} if chat else {"text": (delta or {}).get("content", "")}
    doc: dict[str, Any] = {
        "id": f"chatcmpl-{call.request_id}",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": 1,
        "model": TIER1_MODEL,
        "choices": [] if delta is None else [choice],
    }
    if usage is not None:
        doc["usage"] = wire_usage(usage)
    return json.dumps(doc)


def body(call: Call, draft: Draft, usage: Usage) -> str:
    """One whole response."""
    chat = call.api is Api.CHAT
    message: dict[str, Any] = {"role": "assistant", "content": draft.text or None}
    if draft.tool_calls:
        message["tool_calls"] = wire_calls(draft.tool_calls)
    choice: dict[str, Any] = {"index": 0, "finish_reason": draft.finish_reason, "logprobs": None}
    choice |= {"message": message} if chat else {"text": draft.text}
    return json.dumps(
        {
            "id": f"chatcmpl-{call.request_id}",
            "object": "chat.completion" if chat else "text_completion",
            "created": 1,
            "model": TIER1_MODEL,
            "choices": [choice],
            "usage": wire_usage(usage),
        }
    )


def wire_usage(usage: Usage) -> dict[str, Any]:
    """Usage as OpenAI writes it."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens or 0},
    }


BROKEN_ENGINE = Tier1Failed("scripted engine failure")
