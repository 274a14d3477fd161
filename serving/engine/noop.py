"""An engine that generates meaningless words at once, for measuring everything around an engine.

A profile with `tier1: {engine: noop}` runs the whole stack on it (deploy/profiles/noop.yaml). It has the interface of
`deployment.py`. It generates max_tokens tokens, one frame each. As the router model it always says 0.9.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from ray import serve

from routing.records import Api, Usage
from serving.process.loopback import keep_replica_on_loopback
from serving.request.frame import Frame, RouterScore
from serving.request.tiers import EngineStats

if TYPE_CHECKING:
    from serving.engine.config import EngineConfig

WORD = " word"
DEFAULT_TOKENS = 16
P_YES = 0.9


class NoopEngine:
    """One replica. Its gauges are true, for nothing ever waits. `noop_token_s` makes each token take that long."""

    def __init__(self, config: "EngineConfig") -> None:
        keep_replica_on_loopback()
        self._token_s = config.noop_token_s
        self._model = config.model
        self._replica_id = serve.get_replica_context().replica_id.unique_id

    async def load_adapter(self, adapter: Any) -> None:
        """Accepts every adapter, because there is nothing to load."""

    async def draft(self, payload: Any) -> AsyncGenerator[Frame, None]:
        """Generates as many words as were asked for, each in a frame of its own."""
        started = time.perf_counter()
        tokens = payload.body.get("max_completion_tokens") or payload.body.get("max_tokens") or DEFAULT_TOKENS
        usage = Usage(input_tokens=len(payload.prompt_token_ids), output_tokens=tokens, cached_tokens=0)
        wire = Wire(payload.api, payload.request_id, self._model)
        if payload.stream:
            for i in range(tokens):
                if self._token_s:
                    await asyncio.sleep(self._token_s)
                # Each word differs, or the gate would rightly call it a loop.
                yield Frame(data=wire.chunk(f"{WORD}{i}"), text=f"{WORD}{i}", logprobs=(-0.1,), n_tokens=1)
            yield Frame(data=wire.chunk("", finish="stop"), finish_reason="stop")
        elif self._token_s:
            await asyncio.sleep(self._token_s * tokens)
        text = "".join(f"{WORD}{i}" for i in range(tokens))
        end: dict[str, Any] = {
            "usage": usage,
            "engine_s": time.perf_counter() - started,
            "replica_id": self._replica_id,
            "model": self._model,
        }
        if payload.stream:
            yield Frame(data=wire.chunk(None, usage=usage), **end)
        else:
            yield Frame(
                data=wire.body(text, usage),
                text=text,
                logprobs=(-0.1,) * tokens,
                n_tokens=tokens,
                finish_reason="stop",
                **end,
            )

    async def score(self, payload: Any) -> RouterScore:
        """Always says P_YES."""
        usage = Usage(input_tokens=len(payload.prompt_token_ids), output_tokens=1, cached_tokens=0)
        return RouterScore(P_YES, usage, engine_s=0.0, replica_id=self._replica_id, model=self._model)

    async def probe(self) -> None:
        """Always succeeds."""

    def record_replica_metadata(self) -> dict[str, Any]:
        """As Engine in deployment.py. The cache is as large as on a middling GPU, and is modelled, not reported."""
        return {"model": self._model, "block_size_tokens": 16, "kv_blocks": 65_536}

    async def stats(self) -> EngineStats:
        """Says that it is never busy."""
        return EngineStats(self._replica_id, 0, 0, 0.0, 0, 0, 0, 0.0)


class Wire:
    """The chunks and the body of one answer, as an engine would write them."""

    def __init__(self, api: Api, request_id: str, model: str) -> None:
        self._chat = api is Api.CHAT
        self._head = {"id": f"chatcmpl-{request_id}", "created": int(time.time()), "model": model}

    def chunk(self, text: str | None, finish: str | None = None, usage: Usage | None = None) -> str:
        """One streamed chunk. text None: the usage chunk without choices."""
        said: Mapping[str, Any] = {"delta": {"content": text}} if self._chat else {"text": text}
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        choices = [] if text is None else [{"index": 0, **said, "finish_reason": finish}]
        return json.dumps({**self._head, "object": kind, "choices": choices} | usage_field(usage))

    def body(self, text: str, usage: Usage) -> str:
        """The whole response."""
        said: Mapping[str, Any] = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        kind = "chat.completion" if self._chat else "text_completion"
        choices = [{"index": 0, **said, "finish_reason": "stop"}]
        return json.dumps({**self._head, "object": kind, "choices": choices} | usage_field(usage))


def usage_field(usage: Usage | None) -> dict[str, Any]:
    """OpenAI's usage object, when there is one."""
    if usage is None:
        return {}
    total = usage.input_tokens + usage.output_tokens
    counts = {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens, "total_tokens": total}
    return {"usage": counts}
