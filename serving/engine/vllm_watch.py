"""Watches vLLM's engine: notes the text, log-probabilities and token counts of each request as they come."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from vllm.outputs import RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineGenerateError

from serving.engine.framing import Evidence

ABORTED = "abort"  # finish reason of a request that vLLM itself dropped, which is not an answer


@dataclass(slots=True)
class Watch:
    """Collects what the engine said about one request until it is taken."""

    news: list[Evidence] = field(default_factory=list)
    error: Exception | None = None
    outputs: AsyncGenerator[RequestOutput, None] | None = None
    something: asyncio.Event = field(default_factory=asyncio.Event)

    def see(self, output: RequestOutput) -> None:
        """Note the new tokens of every choice in a delta output. Raises EngineGenerateError for an aborted choice."""
        for choice in output.outputs:
            if choice.finish_reason == ABORTED:
                raise EngineGenerateError("the engine gave the request up")
            rows = choice.logprobs or ()
            logprobs = tuple(row[token].logprob for token, row in zip(choice.token_ids, rows, strict=False))
            if choice.text or choice.token_ids:
                self.news.append(Evidence(choice.index, choice.text, logprobs, len(choice.token_ids)))
        self.something.set()

    def take(self) -> tuple[Evidence, ...]:
        """The news since the last call."""
        taken = tuple(self.news)
        self.news.clear()
        self.something.clear()
        return taken


class Watching:
    """Wraps an engine's `generate`: it notes watched requests and passes all others through untouched.

    A watched request always runs with deltas and with the sampled tokens' logprobs (logprobs=0: no top-k is computed),
    whatever the client asked for. vLLM's serving objects drop logprobs that were not requested.
    """

    watches: dict[str, Watch]

    def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        """As AsyncLLM.generate."""
        watch = self.watches.get(request_id)
        if watch is None:
            return super().generate(prompt, sampling_params, request_id, **options)  # type: ignore[misc, no-any-return]  # a mixin
        watch.outputs = self._watched(watch, prompt, sampling_params, request_id, options)
        return watch.outputs

    async def _watched(
        self, watch: Watch, prompt: Any, sampling_params: SamplingParams, request_id: str, options: dict[str, Any]
    ) -> AsyncGenerator[RequestOutput, None]:
        if sampling_params.logprobs is None and not sampling_params.logprob_token_ids:
            sampling_params.logprobs = 0
        final_only = sampling_params.output_kind is RequestOutputKind.FINAL_ONLY
        sampling_params.output_kind = RequestOutputKind.DELTA
        outputs = super().generate(prompt, sampling_params, request_id, **options)  # type: ignore[misc]  # a mixin: AsyncLLM has it
        merged: RequestOutput | None = None
        try:
            async for output in outputs:
                watch.see(output)
                if not final_only:
                    yield output
                elif merged is None:
                    merged = output
                else:
                    merged.add(output, aggregate=True)
            if merged is not None:
                merged.outputs.sort(key=lambda choice: choice.index)
                yield merged
        except Exception as error:
            watch.error = error  # vLLM's stream turns it into text, and we need its type
            raise
        finally:
            await outputs.aclose()  # aborts the request in the engine when it is still running


class WatchedEngine(Watching, AsyncLLM):  # type: ignore[misc]  # vLLM is untyped here
    """vLLM's engine, watched."""
