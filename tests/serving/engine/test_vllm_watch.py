"""What is noted of a watched request, and that every other request passes untouched."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

from serving.engine.framing import Evidence
from serving.engine.vllm_watch import Watch, Watching


def delta(index: int, text: str, ids: list[int], logprobs: list[float], finish: str | None = None) -> RequestOutput:
    rows = [{i: Logprob(p, 1, None), 999: Logprob(-9.0, 2, None)} for i, p in zip(ids, logprobs, strict=True)]
    choice = CompletionOutput(index, text, ids, None, rows, finish_reason=finish)
    return RequestOutput("r", None, [1, 2, 3], None, [choice], finish is not None, num_cached_tokens=0)


class Recorded:
    """Plays an engine from a list of outputs."""

    def __init__(self, outputs: list[RequestOutput | Exception]) -> None:
        self.outputs = outputs
        self.params: SamplingParams | None = None
        self.closed = False

    async def generate(
        self, prompt: Any, sampling_params: SamplingParams, request_id: str
    ) -> AsyncGenerator[RequestOutput, None]:
        self.params = sampling_params
        try:
            for output in self.outputs:
                if isinstance(output, Exception):
                    raise output
                yield output
        finally:
            self.closed = True


class Played(Watching, Recorded):
    """The watching that lies over AsyncLLM in a replica, over a recording; request "r" is watched."""

    def __init__(self, outputs: list[RequestOutput | Exception]) -> None:
        super().__init__(outputs)
        self.watches = {"r": Watch()}


async def test_watched_request_always_computes_the_sampled_logprob() -> None:
    engine = Played([delta(0, "a", [5], [-0.5], "stop")])
    watch = engine.watches["r"]
    params = SamplingParams(output_kind=RequestOutputKind.DELTA)
    assert [o async for o in engine.generate(None, params, "r")]
    assert engine.params is not None
    assert engine.params.logprobs == 0
    assert watch.take() == (Evidence(0, "a", (-0.5,), 1),)
    assert watch.take() == ()


async def test_requested_logprobs_are_left_as_they_are() -> None:
    engine = Played([delta(0, "a", [5], [-0.5], "stop")])
    params = SamplingParams(logprobs=4, output_kind=RequestOutputKind.DELTA)
    assert [o async for o in engine.generate(None, params, "r")]
    assert engine.params is not None
    assert engine.params.logprobs == 4


async def test_final_only_request_is_watched_step_by_step_and_merged() -> None:
    engine = Played(
        [delta(1, "x", [7], [-1.0]), delta(0, "a", [5], [-0.5]), delta(0, "b", [6], [-0.25], "stop")],
    )
    watch = engine.watches["r"]
    outputs = [o async for o in engine.generate(None, SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY), "r")]
    assert len(outputs) == 1
    assert [(c.index, c.text, list(c.token_ids)) for c in outputs[0].outputs] == [(0, "ab", [5, 6]), (1, "x", [7])]
    assert [e.text for e in watch.take()] == ["x", "a", "b"]


async def test_unwatched_request_passes_untouched() -> None:
    engine = Played([delta(0, "a", [5], [-0.5], "stop")])
    params = SamplingParams(output_kind=RequestOutputKind.FINAL_ONLY)
    assert len([o async for o in engine.generate(None, params, "another")]) == 1
    assert (params.logprobs, params.output_kind) == (None, RequestOutputKind.FINAL_ONLY)


async def test_closing_the_watched_output_closes_vllms() -> None:
    engine = Played([delta(0, "a", [5], [-0.5]), delta(0, "b", [6], [-0.5], "stop")])
    outputs = engine.generate(None, SamplingParams(output_kind=RequestOutputKind.DELTA), "r")
    await anext(outputs)
    await outputs.aclose()
    assert engine.closed


async def test_the_engines_own_exception_is_kept() -> None:
    engine = Played([delta(0, "a", [5], [-0.5]), EngineDeadError()])
    watch = engine.watches["r"]
    with pytest.raises(EngineDeadError):
        [o async for o in engine.generate(None, SamplingParams(output_kind=RequestOutputKind.DELTA), "r")]
    assert isinstance(watch.error, EngineDeadError)


async def test_output_aborted_inside_the_engine_is_a_failure() -> None:
    engine = Played([delta(0, "a", [5], [-0.5], "abort")])
    watch = engine.watches["r"]
    with pytest.raises(EngineGenerateError):
        [o async for o in engine.generate(None, SamplingParams(output_kind=RequestOutputKind.DELTA), "r")]
    assert watch.error is not None


async def test_waiting_for_news_wakes_on_them() -> None:
    watch = Watch()
    waiting = asyncio.create_task(watch.something.wait())
    watch.see(delta(0, "a", [5], [-0.5]))
    await asyncio.wait_for(waiting, 5)
