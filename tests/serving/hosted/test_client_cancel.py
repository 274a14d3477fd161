"""serving/hosted/client.py: a client that leaves ends the provider's work at once."""

import asyncio
import random
import time

import pytest

from tests.journey.upstream import (
    Script,
    ok,
    silence,
    slow_first_token,
    stall,
)
from tests.serving.hosted.asking import BOTH, CANCELLED, Build, a_call, a_trace, ask, provider


@BOTH
async def test_closing_a_stream_hangs_up_on_the_provider_within_250_ms(kind: str, a, build: Build) -> None:
    """And books what had come."""
    a.script(stall("a b c d", 2))
    client, call = build(provider("a", a, kind=kind), idle_timeout_s=60), a_call(stream=True, input_tokens=7)
    trace = a_trace(call)
    frames = client.complete(call, trace)
    text = ""
    while text != "a b ":
        text += (await anext(frames)).text
    left = time.perf_counter()
    await frames.aclose()
    assert await a.exchanges[0].client_left() - left < 0.25
    (attempt,) = trace.record().attempts
    assert (attempt.outcome, attempt.error) == (CANCELLED, None)
    assert attempt.usage is not None
    assert (attempt.usage.output_tokens, attempt.usage.estimated) == (1, True)


@BOTH
@pytest.mark.parametrize("script", [silence(), slow_first_token(60), stall("a b", 1)], ids=lambda s: s.fault.value)
async def test_cancelling_a_whole_answer_hangs_up_within_250_ms(kind: str, script: Script, a, build: Build) -> None:
    """At every station before the answer."""
    a.script(script)
    client = build(provider("a", a, kind=kind), ttft_timeout_s=60, idle_timeout_s=60)
    call = a_call(input_tokens=7)
    trace = a_trace(call)
    asking = asyncio.create_task(anext(client.complete(call, trace)))
    exchange = await a.received(1)
    if script.tokens and script.fault_after:
        await exchange.sent(1)
    left = time.perf_counter()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await exchange.client_left() - left < 0.25
    (attempt,) = trace.record().attempts
    assert attempt.outcome is CANCELLED
    assert attempt.usage is not None
    assert attempt.usage.input_tokens > 0
    await a.idle()


async def test_many_cancelled_requests_leave_nothing_behind(a, build: Build) -> None:
    """No orphaned upstream call, whatever the moment of the cancel."""
    a.always(ok("a b c d e f", first_token_delay_s=0.005, token_delay_s=0.002))
    client = build(provider("a", a))
    rng = random.Random(5)

    async def one(patience_s: float) -> None:
        try:
            async with asyncio.timeout(patience_s):
                await ask(client, a_call(stream=rng.random() < 0.5))
        except TimeoutError:
            pass

    for _ in range(5):
        await asyncio.gather(*(one(rng.uniform(0, 0.05)) for _ in range(20)))
    await a.idle()
    a.always(ok("still here"))
    assert (await ask(client, a_call())).text == "still here"
