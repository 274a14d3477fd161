"""serving/hosted/client.py: every token is counted once and at the serving provider's price."""

import json

import pytest

from routing.records import Usage
from tests.journey.upstream import (
    UsageStyle,
    error,
    ok,
)
from tests.serving.hosted.asking import BOTH, EITHER_WAY, FAILED, SERVED, Build, a_call, ask, provider


@pytest.mark.parametrize("usage", [UsageStyle.LAST, UsageStyle.WITH_CHOICES, UsageStyle.REPEATED])
@BOTH
@EITHER_WAY
async def test_usage_is_counted_once_however_it_is_reported(
    kind: str, usage: UsageStyle, stream: bool, a, build: Build
) -> None:
    """In a last chunk, in a chunk with choices, or on every chunk."""
    a.script(ok("one two three", usage=usage, input_tokens=11, cached_tokens=4))
    asked = await ask(build(provider("a", a, kind=kind)), a_call(stream=stream))
    (attempt,), (exchange,) = asked.attempts, a.exchanges
    assert attempt.usage is not None
    assert not attempt.usage.estimated
    assert (attempt.usage.input_tokens, attempt.usage.cached_tokens) == (11, 4)
    assert attempt.usage.output_tokens == exchange.billed_output_tokens == 3
    with_usage = [f for f in asked.frames if json.loads(f.data or "").get("usage")]
    assert with_usage == [asked.frames[-1]]


@BOTH
@EITHER_WAY
async def test_missing_usage_is_estimated_and_marked(kind: str, stream: bool, a, build: Build) -> None:
    """The provider drops it, or message_stop comes without usage."""
    a.script(ok("one two three", usage=UsageStyle.MISSING))
    asked = await ask(build(provider("a", a, kind=kind)), a_call(stream=stream, input_tokens=7))
    assert asked.attempts[0].outcome is SERVED
    assert asked.attempts[0].usage == Usage(input_tokens=7, output_tokens=4, estimated=True)


async def test_anthropics_cache_reads_and_writes_are_booked_as_parts_of_the_input(a, build: Build) -> None:
    a.script(ok("fine", input_tokens=100, cached_tokens=60, cache_write_tokens=30))
    asked = await ask(build(provider("claude", a, kind="anthropic")), a_call())
    assert asked.attempts[0].usage == Usage(input_tokens=100, output_tokens=1, cached_tokens=60, cache_write_tokens=30)
    system = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    await ask(build(provider("claude", a, kind="anthropic")), a_call(messages=system))
    assert a.bodies[1]["system"] == [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}]


@EITHER_WAY
async def test_after_failover_model_usage_and_cost_are_the_serving_providers(stream: bool, a, b, build: Build) -> None:
    a.script(error(503), error(503))
    b.script(ok("x y", input_tokens=1000, cached_tokens=500))
    client = build(provider("a", a), provider("b", b, model="other"))
    asked = await ask(client, a_call(stream=stream))
    *lost, served = asked.attempts
    assert [(x.outcome, x.provider, x.cost_usd) for x in lost] == [(FAILED, "a", 0.0)] * 2
    assert (served.outcome, served.provider, served.model, served.try_number) == (SERVED, "b", "other", 3)
    assert served.cost_usd == pytest.approx((500 * 1 + 500 * 0.1 + 2 * 10) / 1e6)
    assert {frame.model for frame in asked.frames} == {"other"}
    assert {json.loads(frame.data or "")["model"] for frame in asked.frames} == {"other"}
