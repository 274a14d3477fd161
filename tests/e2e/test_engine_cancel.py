"""A caller that leaves frees the engine: nothing is generated for nobody (faults 41 and 43)."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from serving.engine.client import EngineClient
from serving.errors import QueueFull
from serving.request.call import Call
from serving.request.frame import Frame
from serving.request.tiers import EngineStats
from tests.e2e.conftest import END_TO_END, TIER1, until_idle

pytestmark = END_TO_END

NewCall = Callable[..., Call]

LONG_ANSWER = {
    "messages": [{"role": "user", "content": "Write a very long story."}],
    "max_tokens": 1500,
    "min_tokens": 1400,
    "temperature": 0.0,
}
# Six steps of prefill, so that it is still under way when we leave.
LONG_PROMPT = {"messages": [{"role": "user", "content": "word " * 3000}], "max_tokens": 900, "min_tokens": 800}
# Liveness, not speed. A step cannot be aborted, and one of prefill took 10.6 s on a loaded machine. It still tells an
# abort from the end of an answer: 800 tokens at 11 tokens/s take 73 s.
FREED_WITHIN_S = 40.0


async def running(handle: Any) -> EngineStats:
    """Wait until vLLM works on a request."""
    async with asyncio.timeout(60):
        while True:
            stats: EngineStats = await handle.stats.remote()
            if stats.running:
                return stats
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_closing_in_the_middle_aborts_in_the_engine(
    tier1: EngineClient, tier1_handle: Any, new_call: NewCall, stream: bool
) -> None:
    frames = tier1.draft(new_call(LONG_ANSWER, stream=stream))
    for _ in range(5):
        await anext(frames)
    assert (await tier1_handle.stats.remote()).running == 1
    began = time.perf_counter()
    await frames.aclose()
    stats = await until_idle(tier1_handle, FREED_WITHIN_S)
    print(f"freed after {time.perf_counter() - began:.3f} s")
    assert (stats.running, stats.waiting) == (0, 0)
    assert (await tier1_handle.stats.remote()).generated_tokens == stats.generated_tokens < LONG_ANSWER["min_tokens"]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
async def test_leaving_before_the_first_token_aborts_in_the_engine(
    tier1: EngineClient, tier1_handle: Any, new_call: NewCall, stream: bool
) -> None:
    async def first_frame() -> None:
        await anext(tier1.draft(new_call(LONG_PROMPT, stream=stream, salt=f"fresh-{time.time()}")))

    task = asyncio.create_task(first_frame())
    await running(tier1_handle)
    began = time.perf_counter()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    stats = await until_idle(tier1_handle, FREED_WITHIN_S)
    print(f"freed after {time.perf_counter() - began:.3f} s")
    assert (stats.running, stats.waiting) == (0, 0)


async def test_many_cancels_at_odd_moments_leave_nothing_behind(
    tier1: EngineClient, tier1_handle: Any, new_call: NewCall
) -> None:
    async def leave_after(delay_s: float, stream: bool) -> None:
        try:
            async with asyncio.timeout(delay_s):
                async for _ in tier1.draft(new_call(LONG_ANSWER, stream=stream)):
                    pass
        except TimeoutError:
            pass

    await asyncio.gather(*[leave_after(0.01 + 0.07 * i, i % 2 == 0) for i in range(TIER1.max_concurrent_requests)])
    stats = await until_idle(tier1_handle, FREED_WITHIN_S)
    assert (stats.running, stats.waiting) == (0, 0)


async def test_full_queue_refuses_at_once_and_forgets_who_left(
    tier1: EngineClient, tier1_handle: Any, new_call: NewCall
) -> None:
    """Refused with a hint when to come back. A queued caller that leaves never reaches the engine."""

    def enter(n: int) -> list[asyncio.Task[Frame]]:
        drafts = [tier1.draft(new_call({**LONG_ANSWER, "min_tokens": 400}, stream=True)) for _ in range(n)]
        everybody.extend(drafts)
        return [asyncio.create_task(anext(d)) for d in drafts]

    everybody: list[AsyncGenerator[Frame, None]] = []
    inside = enter(TIER1.max_concurrent_requests)
    async with asyncio.timeout(120):
        await asyncio.gather(*inside)
    queued = enter(TIER1.max_queued_requests)
    await asyncio.sleep(0)  # let them reach the queue
    with pytest.raises(QueueFull) as refusal:
        async with asyncio.timeout(30):
            await anext(tier1.draft(new_call(LONG_ANSWER, stream=True)))
    assert refusal.value.retry_after_s
    assert not any(task.done() for task in queued)
    for task in queued:
        task.cancel()
    await asyncio.gather(*queued, return_exceptions=True)
    for draft in everybody:
        await draft.aclose()
    stats = await until_idle(tier1_handle, FREED_WITHIN_S)
    assert (stats.running, stats.waiting) == (0, 0)
