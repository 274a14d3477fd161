"""The load generator: one request timed from before it leaves, and many of them in closed or open loop.

Tokens come from the server's usage, times from the monotonic clock of this process, failures are counted and kept.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp


@dataclass(slots=True)
class Sample:
    """One request as the client saw it. Seconds. None: did not happen.

    frames_s: arrival times of content frames after the start, shape (frames,). last_s: of the last frame with a choice,
    which may hold a finish reason alone. text: the first choice's content. late_s: in open loop, how long after its
    time it was sent.
    """

    started_s: float
    e2e_s: float | None = None
    ttft_s: float | None = None
    frames_s: list[float] = field(default_factory=list)
    last_s: float | None = None
    output_tokens: int | None = None
    input_tokens: int | None = None
    cached_tokens: int | None = None
    status: int | None = None
    error: str | None = None
    text: str = ""
    tierwise: dict[str, Any] | None = None
    late_s: float | None = None

    @property
    def gaps_s(self) -> list[float]:
        """Every gap between two content frames (ITL)."""
        return [b - a for a, b in zip(self.frames_s, self.frames_s[1:], strict=False)]

    @property
    def tpot_s(self) -> float | None:
        """(last chunk of the choice − TTFT) ÷ (output tokens − 1): usage and [DONE], which follow, are not decoding."""
        if self.last_s is None or self.ttft_s is None or (self.output_tokens or 0) < 2:
            return None
        return (self.last_s - self.ttft_s) / ((self.output_tokens or 0) - 1)


async def request(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], headers: dict[str, str] | None = None
) -> Sample:
    """Send one completion and take everything down that happens. Never raises for what the server does."""
    sample = Sample(started_s=time.perf_counter())
    try:
        async with session.post(url, json=body, headers=headers) as reply:
            sample.status = reply.status
            if reply.status != 200:
                sample.error = (await reply.text())[:300]
            elif body.get("stream"):
                async for line in reply.content:
                    take_line(sample, line)
            else:
                take_document(sample, await reply.json())
            sample.e2e_s = time.perf_counter() - sample.started_s
    except (aiohttp.ClientError, TimeoutError) as error:
        sample.error = type(error).__name__
    return sample


def take_line(sample: Sample, line: bytes) -> None:
    """One line of an event stream."""
    if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
        return
    chunk = json.loads(line[6:])
    if "error" in chunk:
        sample.error = str(chunk["error"])[:300]
    if choices := chunk.get("choices"):
        sample.last_s = time.perf_counter() - sample.started_s
        if text := (choices[0].get("delta") or {}).get("content") or choices[0].get("text"):
            sample.text += text
            sample.frames_s.append(sample.last_s)
            sample.ttft_s = sample.frames_s[0]
    take_document(sample, chunk)


def take_document(sample: Sample, document: dict[str, Any]) -> None:
    """Usage and decision metadata of a chunk or body."""
    if usage := document.get("usage"):
        sample.output_tokens = usage.get("completion_tokens")
        sample.input_tokens = usage.get("prompt_tokens")
        sample.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    sample.tierwise = document.get("tierwise", sample.tierwise)


async def closed_loop(
    send: Callable[[int], Awaitable[Sample]], *, requests: int, concurrency: int
) -> tuple[list[Sample], float]:
    """`requests` in total, `concurrency` at a time. (samples, wall seconds)."""
    numbers = iter(range(requests))
    samples: list[Sample] = []

    async def worker() -> None:
        for number in numbers:
            samples.append(await send(number))

    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(worker())
    return samples, time.perf_counter() - started


async def open_loop(
    send: Callable[[int], Coroutine[Any, Any, Sample]], due_s: Sequence[float]
) -> tuple[list[Sample], float]:
    """Requests leave at their time whatever the server does. (samples in order of arrival, wall seconds).

    due_s: seconds from now, ascending. A sample's `late_s` says how far this process was behind its own plan.
    """
    started = time.perf_counter()
    tasks = []
    async with asyncio.TaskGroup() as group:
        for number, due in enumerate(due_s):
            await asyncio.sleep(max(0.0, started + due - time.perf_counter()))
            tasks.append(group.create_task(send(number)))
    samples = [task.result() for task in tasks]
    for sample, due in zip(samples, due_s, strict=True):
        sample.late_s = sample.started_s - started - due
    return samples, time.perf_counter() - started


def new_session(timeout_s: float = 300) -> aiohttp.ClientSession:
    """A client that keeps its connections and never limits their number. Use it with `async with`."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=timeout_s)
    )


def quantile(values: Sequence[float], q: float) -> float | None:
    """The q-quantile by linear interpolation, q in 0..1. None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    at = q * (len(ordered) - 1)
    low = int(at)
    return ordered[low] + (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]) * (at - low)
