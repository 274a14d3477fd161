"""serving/hosted/client.py: what goes out, what comes back, and where the limits are."""

import json
import logging
import time
import traceback

import pytest

from routing.records import Api, Tier
from serving.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    FrontierUnavailable,
    InvalidRequest,
    StreamBroken,
)
from serving.hosted.breaker import BreakerState
from serving.hosted.client import HostedClient
from serving.hosted.faults import Reason
from tests.journey.upstream import (
    Script,
    ToolUse,
    cut,
    error,
    ok,
    reset,
    silence,
    stall,
    tool_calls,
)
from tests.serving.hosted.asking import (
    BOTH,
    BRIEF,
    EITHER_WAY,
    KEY,
    SERVED,
    Build,
    Counted,
    ManualClock,
    a_call,
    ask,
    provider,
)


@BOTH
async def test_a_stream_passes_the_providers_chunks_on_and_ends_with_usage(kind: str, a, build: Build) -> None:
    a.script(ok("one two three", cached_tokens=2, input_tokens=9, model="big-2026"))
    asked = await ask(build(provider("a", a, kind=kind)), a_call(stream=True))
    chunks = [json.loads(frame.data or "") for frame in asked.frames]
    assert asked.text == "one two three"
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks[:-1]) == "one two three"
    assert {(c["id"], c["model"], c["object"]) for c in chunks} == {
        (chunks[0]["id"], "big-2026", "chat.completion.chunk")
    }
    assert [frame.finish_reason for frame in asked.frames[-2:]] == ["stop", None]
    assert chunks[-1]["choices"] == []
    assert (chunks[-1]["usage"]["prompt_tokens"], chunks[-1]["usage"]["completion_tokens"]) == (9, 3)
    (attempt,) = asked.attempts
    assert (attempt.outcome, attempt.provider, attempt.model, attempt.tier) == (SERVED, "a", "big-2026", Tier.FRONTIER)
    assert attempt.ttft_s is not None
    assert attempt.ttft_s <= attempt.duration_s


@BOTH
async def test_a_whole_answer_is_one_frame_with_the_whole_body(kind: str, a, build: Build) -> None:
    a.script(ok("one two three", input_tokens=9))
    asked = await ask(build(provider("a", a, kind=kind)), a_call())
    (frame,) = asked.frames
    body = json.loads(frame.data or "")
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == frame.text == "one two three"
    assert (body["choices"][0]["finish_reason"], frame.finish_reason) == ("stop", "stop")
    assert body["usage"]["total_tokens"] == 12
    assert asked.attempts[0].ttft_s is not None


@BOTH
@EITHER_WAY
async def test_parallel_tool_calls_arrive_complete_on_the_finishing_frame(
    kind: str, stream: bool, a, build: Build
) -> None:
    a.script(tool_calls(ToolUse("f", '{"x": 1}', "c1"), ToolUse("g", "{}", "c2"), text="let me see "))
    asked = await ask(build(provider("a", a, kind=kind)), a_call(stream=stream))
    (finishing,) = [frame for frame in asked.frames if frame.finish_reason]
    assert finishing.finish_reason == "tool_calls"
    assert [(t.name, json.loads(t.arguments)) for t in finishing.tool_calls] == [("f", {"x": 1}), ("g", {})]
    assert asked.text == "let me see "


async def test_several_choices_are_all_answered(a, build: Build) -> None:
    a.script(ok("yes sir"), ok("yes sir"))
    client = build(provider("a", a))
    (whole,) = (await ask(client, a_call(n=2))).frames
    choices = json.loads(whole.data or "")["choices"]
    assert [(c["index"], c["message"]["content"]) for c in choices] == [(0, "yes sir"), (1, "yes sir")]
    streamed = await ask(client, a_call(stream=True, n=2))
    assert ["".join(f.text for f in streamed.frames if f.choice == i) for i in (0, 1)] == ["yes sir", "yes sir"]


@BOTH
@EITHER_WAY
async def test_completions_go_out_as_chat_and_come_back_as_text(kind: str, stream: bool, a, build: Build) -> None:
    a.script(ok("one two"))
    asked = await ask(build(provider("a", a, kind=kind)), a_call(stream=stream, api=Api.COMPLETIONS, prompt="once"))
    bodies = [json.loads(frame.data or "") for frame in asked.frames]
    assert {body["object"] for body in bodies} == {"text_completion"}
    assert "".join(body["choices"][0]["text"] for body in bodies if body["choices"]) == "one two" == asked.text
    assert "prompt" not in a.bodies[0]


async def test_a_prompt_of_token_ids_is_refused_without_a_call(a, build: Build) -> None:
    asked = await ask(build(provider("a", a)), a_call(api=Api.COMPLETIONS, prompt=[1, 2]))
    assert isinstance(asked.error, InvalidRequest)
    assert a.calls == 0


@BOTH
async def test_what_is_sent_upstream(kind: str, a, build: Build) -> None:
    """The SDKs do not retry. Usage is always asked for."""
    client = build(provider("a", a, kind=kind, max_output_tokens=50))
    await ask(client, a_call(max_tokens=99, temperature=0.5))
    (exchange,) = a.exchanges
    assert exchange.headers["x-stainless-retry-count"] == "0"
    assert exchange.streamed
    assert (exchange.body["max_tokens"], exchange.body["temperature"]) == (50, 0.5)
    assert exchange.body["model"] == client.model
    if kind == "openai":
        assert exchange.body["stream_options"] == {"include_usage": True}
        assert exchange.headers["x-client-request-id"] == "req-1"


async def test_the_cache_key_is_stable_per_tenant_and_says_nothing_about_it(a, build: Build) -> None:
    client = build(provider("a", a, send_cache_key=True))
    await ask(client, a_call())
    await ask(client, a_call())
    keys = {body["prompt_cache_key"] for body in a.bodies}
    assert len(keys) == 1
    assert "salt" not in keys.pop()


@BOTH
async def test_connections_are_used_again(kind: str, a, build: Build) -> None:
    client = build(provider("a", a, kind=kind))
    for _ in range(5):
        assert (await ask(client, a_call(stream=True))).error is None
    assert a.connections_made == 1


async def test_a_provider_whose_context_is_too_small_is_passed_over(a, b, build: Build) -> None:
    client = build(provider("a", a, max_context_tokens=100), provider("b", b, max_context_tokens=1000))
    assert client.max_context_tokens == 1000
    assert (await ask(client, a_call(input_tokens=90, max_tokens=10))).attempts[0].provider == "a"
    assert (await ask(client, a_call(input_tokens=90, max_tokens=11))).attempts[0].provider == "b"


async def test_a_request_that_fits_no_provider_is_refused_without_a_call(a, build: Build) -> None:
    asked = await ask(build(provider("a", a, max_context_tokens=100)), a_call(input_tokens=100))
    assert isinstance(asked.error, ContextLengthExceeded)
    assert a.calls == 0


async def test_a_provider_that_counts_a_longer_prompt_is_replaced_by_a_larger_one(a, b, ab: HostedClient) -> None:
    a.script(error(400, "too long", code="context_length_exceeded"))
    assert (await ask(ab, a_call())).attempts[1].provider == "b"


@EITHER_WAY
async def test_nothing_runs_past_the_deadline(stream: bool, a, b, build: Build) -> None:
    a.always(silence())
    b.always(silence())
    observer, fragile = Counted(), provider("a", a, breaker={"failures_to_open": 1})
    client = build(fragile, provider("b", b), ttft_timeout_s=60, observer=observer)
    began = time.perf_counter()
    asked = await ask(client, a_call(deadline_s=0.2, stream=stream))
    assert isinstance(asked.error, DeadlineExceeded)
    assert time.perf_counter() - began < 0.2 + 1
    assert a.calls + b.calls == 1
    await a.exchanges[0].client_left()
    assert observer.failed == [("a", Reason.DEADLINE)]
    assert observer.changes == [], "a request that came late says nothing about the provider"


async def test_a_deadline_after_the_first_content_breaks_the_stream(a, build: Build) -> None:
    a.script(stall("a b c", 1))
    asked = await ask(build(provider("a", a), idle_timeout_s=60), a_call(deadline_s=0.2, stream=True))
    assert isinstance(asked.error, StreamBroken)
    assert asked.text == "a "


async def test_a_passed_deadline_makes_no_call(a, build: Build) -> None:
    asked = await ask(build(provider("a", a)), a_call(deadline_s=-1))
    assert isinstance(asked.error, DeadlineExceeded)
    assert a.calls == 0


async def test_a_probe_asks_providers_in_order_until_one_answers(a, b, ab: HostedClient) -> None:
    await ab.probe()
    a.script(error(500))
    await ab.probe()
    assert (a.calls, b.calls) == (2, 1)
    assert a.bodies[0]["max_completion_tokens"] == 1


@pytest.mark.parametrize("script", [error(503), silence(), reset(), cut("a", 0, clean=True)])
async def test_a_probe_that_generates_nothing_fails(script: Script, a, build: Build) -> None:
    a.always(script)
    with pytest.raises(FrontierUnavailable):
        await build(provider("a", a), **BRIEF).probe()


async def test_a_probe_brings_an_idle_provider_back(a, build: Build) -> None:
    clock, observer = ManualClock(), Counted()
    client = build(provider("a", a, breaker={"failures_to_open": 1}), clock=clock, observer=observer, max_tries=1)
    a.script(error(503))
    await ask(client, a_call())
    clock.now += 10
    await client.probe()
    assert observer.changes[-1] == ("a", BreakerState.CLOSED)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422, 429, 500, 503])
@BOTH
async def test_a_key_echoed_by_the_provider_reaches_no_error_and_no_log(
    kind: str, status: int, a, build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    a.always(error(status, f"bad key {KEY}, header Bearer {KEY}"))
    with caplog.at_level(logging.DEBUG):
        asked = await ask(build(provider("a", a, kind=kind)), a_call())
        assert asked.error is not None
        logging.getLogger("test").error("as logged by the gateway", exc_info=asked.error)
    assert KEY not in "".join(traceback.format_exception(asked.error))
    assert KEY not in caplog.text
    assert KEY not in asked.trace.record().model_dump_json()


async def test_every_failed_try_is_counted_by_provider_and_reason(a, b, build: Build) -> None:
    observer = Counted()
    a.script(error(500), error(429))
    b.script(cut("a b", 1))
    client = build(provider("a", a), provider("b", b), observer=observer, max_tries=4, quick_retries=1)
    asked = await ask(client, a_call())
    assert asked.error is None
    assert observer.failed == [("a", Reason.SERVER_ERROR), ("a", Reason.RATE_LIMITED), ("b", Reason.CONNECTION)]
