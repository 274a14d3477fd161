"""serving/hosted/client.py: the sixteen upstream failures, over real HTTP."""

import asyncio
import random
import time
from contextlib import aclosing

import pytest

from routing.records import ToolCall, Usage
from serving.errors import (
    FrontierRateLimited,
    FrontierRejected,
    FrontierUnavailable,
    InvalidRequest,
    StreamBroken,
)
from serving.hosted.breaker import BreakerState
from serving.hosted.client import HostedClient
from serving.hosted.faults import Reason
from tests.journey.upstream import (
    Script,
    ScriptedUpstream,
    UsageStyle,
    content_filter_200,
    content_filter_400,
    cut,
    empty_choices,
    error,
    hang,
    malformed_chunk,
    no_done,
    ok,
    overloaded,
    reset,
    silence,
    slow_first_token,
    stall,
    tool_call,
)
from tests.serving.hosted.asking import (
    BOTH,
    BRIEF,
    BROKEN,
    EITHER_WAY,
    FAILED,
    KINDS,
    SERVED,
    Build,
    Counted,
    ManualClock,
    a_call,
    a_trace,
    ask,
    provider,
)

CUTS = [cut("a b c d", 2), cut("a b c d", 2, clean=True), overloaded("a b c d", 2)]
SAID = "one two three"


@BOTH
async def test_a_short_retry_after_is_waited_for(kind: str, a, build: Build) -> None:
    a.script(error(429, retry_after_s=0.05), ok("hello"))
    asked = await ask(build(provider("a", a, kind=kind)), a_call())
    assert asked.text == "hello"
    assert a.exchanges[1].received - a.exchanges[0].received >= 0.05
    assert asked.attempts[0].error == "frontier_rate_limited"


async def test_a_rate_limit_without_retry_after_is_tried_again_then_elsewhere(a, b, ab: HostedClient) -> None:
    a.always(error(429))
    asked = await ask(ab, a_call())
    assert asked.error is None
    assert (a.calls, b.calls) == (2, 1)


async def test_a_retry_after_past_the_deadline_goes_to_the_next_provider(a, b, ab: HostedClient) -> None:
    a.script(error(429, retry_after_s=60))
    asked = await ask(ab, a_call(deadline_s=5))
    assert (asked.text, a.calls, b.calls) == ("hello", 1, 1)


async def test_when_every_provider_is_limited_the_client_learns_when_to_come_back(a, b, ab: HostedClient) -> None:
    """429 with Retry-After, at once."""
    a.always(error(429, retry_after_s=90))
    b.always(error(429, retry_after_s=60))
    asked = await ask(ab, a_call(deadline_s=5))
    assert isinstance(asked.error, FrontierRateLimited)
    assert asked.error.retry_after_s == 60
    assert (a.calls, b.calls) == (1, 1)


async def test_rate_limits_do_not_open_the_breaker(a, build: Build) -> None:
    """A burst that is limited is no outage."""
    observer = Counted()
    client = build(provider("a", a, breaker={"failures_to_open": 1}), observer=observer, max_tries=1)
    a.always(error(429))
    for _ in range(5):
        await ask(client, a_call())
    assert a.calls == 5
    assert observer.changes == []


@BOTH
@EITHER_WAY
async def test_one_500_is_retried_and_nobody_notices(kind: str, stream: bool, a, build: Build) -> None:
    a.script(error(500), ok("fine"))
    asked = await ask(build(provider("a", a, kind=kind)), a_call(stream=stream))
    assert (asked.text, asked.error) == ("fine", None)
    assert [(x.outcome, x.try_number) for x in asked.attempts] == [(FAILED, 1), (SERVED, 2)]


async def test_an_outage_opens_the_breaker_and_recovery_closes_it_without_flapping(a, b, build: Build) -> None:
    """Fallback at once while it lasts, back within 30 s after it."""
    clock, observer = ManualClock(), Counted()
    a.always(error(503))
    client = build(
        provider("a", a, breaker={"failures_to_open": 4, "open_s": 30}),
        provider("b", b),
        observer=observer,
        clock=clock,
    )
    for _ in range(6):
        assert (await ask(client, a_call())).error is None
    assert (a.calls, b.calls) == (4, 6), "two tries each for two requests, then left alone"
    clock.now += 30
    assert (await ask(client, a_call())).error is None  # the probe fails, the request does not
    assert a.calls == 5
    clock.now += 30
    a.always(ok("back"))
    assert [(await ask(client, a_call())).text for _ in range(3)] == ["back"] * 3
    assert [state for _, state in observer.changes] == [
        BreakerState.OPEN,
        BreakerState.HALF_OPEN,
        BreakerState.OPEN,
        BreakerState.HALF_OPEN,
        BreakerState.CLOSED,
    ]


async def test_while_one_request_probes_the_others_go_elsewhere(a, b, build: Build) -> None:
    clock = ManualClock()
    client = build(provider("a", a, breaker={"failures_to_open": 1}), provider("b", b), clock=clock, quick_retries=0)
    a.script(error(503))
    await ask(client, a_call())
    clock.now += 10
    go_on = asyncio.Event()
    a.script(stall("slow probe", 1, until=go_on))
    probe = asyncio.create_task(ask(client, a_call(stream=True)))
    await (await a.received(2)).sent(1)
    assert [(await ask(client, a_call())).attempts[0].provider for _ in range(3)] == ["b"] * 3
    go_on.set()
    assert (await probe).text == "slow probe"
    assert (await ask(client, a_call())).attempts[0].provider == "a"


async def test_when_every_breaker_is_open_the_answer_is_an_immediate_503(a, build: Build) -> None:
    client = build(provider("a", a, breaker={"failures_to_open": 1, "open_s": 10}), max_tries=1)
    a.always(error(503))
    await ask(client, a_call())
    asked = await ask(client, a_call())
    assert isinstance(asked.error, FrontierUnavailable)
    assert asked.error.http_status == 503
    assert 0 < (asked.error.retry_after_s or 0) <= 10
    assert asked.attempts == ()
    assert a.calls == 1


@pytest.mark.parametrize("max_tries", [1, 2, 5])
async def test_one_budget_of_tries_over_all_providers(max_tries: int, a, b, build: Build) -> None:
    a.always(error(500))
    b.always(error(500))
    asked = await ask(build(provider("a", a), provider("b", b), max_tries=max_tries), a_call())
    assert isinstance(asked.error, FrontierUnavailable)
    assert a.calls + b.calls == max_tries == len(asked.attempts)
    assert [x.try_number for x in asked.attempts] == list(range(1, max_tries + 1))


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_provider_that_refuses_our_key_is_not_asked_twice(status: int, a, b, ab: HostedClient) -> None:
    a.script(error(status))
    asked = await ask(ab, a_call())
    assert (asked.text, a.calls, b.calls) == ("hello", 1, 1)


@BOTH
@EITHER_WAY
@pytest.mark.parametrize("script", [reset(), silence(), slow_first_token(60)], ids=["reset", "silence", "slow"])
async def test_a_provider_that_never_begins_is_replaced(
    kind: str, stream: bool, script: Script, a, b, build: Build
) -> None:
    """Within a second after the limit on the first token."""
    a.always(script)
    client = build(provider("a", a, kind=kind), provider("b", b), quick_retries=0, max_tries=5, **BRIEF)
    began = time.perf_counter()
    asked = await ask(client, a_call(stream=stream))
    assert asked.text == "hello"
    assert b.exchanges[0].received - began < 0.3 + 1
    assert (asked.attempts[0].outcome, asked.attempts[-1].outcome) == (FAILED, SERVED)


@BOTH
async def test_pings_do_not_extend_the_limit_on_the_first_token(kind: str, a, b, build: Build) -> None:
    a.script(slow_first_token(60, ping_every_s=0.05))
    client = build(provider("a", a, kind=kind), provider("b", b), **BRIEF)
    began = time.perf_counter()
    assert (await ask(client, a_call(stream=True))).attempts[1].provider == "b"
    assert b.exchanges[0].received - began < 0.3 + 1


async def test_a_refused_connection_is_replaced(b, build: Build) -> None:
    gone = ScriptedUpstream()
    async with gone:
        url = gone.base_url
    client = build({**provider("a", gone), "base_url": url}, provider("b", b))
    assert (await ask(client, a_call())).text == "hello"


async def test_a_try_we_gave_up_on_is_booked_with_its_prompt(a, b, build: Build) -> None:
    """The provider may bill what it read. An unknown is never booked as 0."""
    a.script(silence())
    asked = await ask(build(provider("a", a), provider("b", b), **BRIEF), a_call(input_tokens=7))
    assert asked.attempts[0].usage == Usage(input_tokens=7, output_tokens=0, estimated=True)


@BOTH
@pytest.mark.parametrize("script", [*CUTS, reset("a b c d", 2)], ids=lambda s: s.fault.value)
async def test_a_stream_cut_after_its_first_content_breaks_openly_and_is_billed(
    kind: str, script: Script, a, b, build: Build
) -> None:
    """No switch of models, no clean end. The partial tokens are booked."""
    a.script(script)
    asked = await ask(build(provider("a", a, kind=kind), provider("b", b)), a_call(stream=True, input_tokens=7))
    assert isinstance(asked.error, StreamBroken)
    assert asked.text in ("a ", "a b ")  # a reset may take the last bytes with it
    assert all(frame.finish_reason is None for frame in asked.frames)
    (attempt,) = asked.attempts
    assert (attempt.outcome, attempt.error) == (BROKEN, "stream_broken")
    assert attempt.usage is not None
    assert attempt.usage.estimated
    assert attempt.usage.output_tokens >= 1
    assert b.calls == 0


@BOTH
@pytest.mark.parametrize("script", [*CUTS, stall("a b c d", 2)], ids=lambda s: s.fault.value)
async def test_a_whole_answer_that_is_cut_is_replaced_unseen_and_billed(
    kind: str, script: Script, a, b, build: Build
) -> None:
    """Nothing had been released, so another provider answers. What was generated is paid."""
    a.always(script)
    client = build(provider("a", a, kind=kind), provider("b", b), quick_retries=0, idle_timeout_s=0.3)
    asked = await ask(client, a_call())
    assert (asked.text, asked.error) == ("hello", None)
    lost, served = asked.attempts
    assert (lost.outcome, served.provider) == (FAILED, "b")
    assert lost.usage is not None
    assert lost.usage.output_tokens >= 1


@BOTH
async def test_a_stall_after_content_ends_in_stream_broken_at_the_idle_limit(kind: str, a, build: Build) -> None:
    observer = Counted()
    a.script(stall("a b c d", 2))
    asked = await ask(build(provider("a", a, kind=kind), observer=observer, idle_timeout_s=0.3), a_call(stream=True))
    assert isinstance(asked.error, StreamBroken)
    assert asked.text == "a b "
    assert observer.failed == [("a", Reason.IDLE_TIMEOUT)]
    await a.exchanges[0].client_left()


async def test_a_slow_reader_is_not_a_stalled_provider(a, build: Build) -> None:
    a.script(ok("a b c d e f"))
    client = build(provider("a", a), idle_timeout_s=0.05, ttft_timeout_s=1)
    call, text = a_call(stream=True), ""
    async with aclosing(client.complete(call, a_trace(call))) as frames:
        async for frame in frames:
            text += frame.text
            await asyncio.sleep(0.1)  # longer than the provider may be idle
    assert text == "a b c d e f"


@pytest.mark.parametrize(
    "script",
    [
        malformed_chunk("one two three"),
        empty_choices("one two three"),
        empty_choices("one two three", at=2),
        no_done("one two three"),
    ],
    ids=["malformed", "empty choices first", "empty choices", "no goodbye"],
)
@BOTH
@EITHER_WAY
async def test_odd_streams_are_tolerated(kind: str, stream: bool, script: Script, a, build: Build) -> None:
    a.script(script)
    asked = await ask(build(provider("a", a, kind=kind)), a_call(stream=stream))
    assert (asked.text, asked.error) == ("one two three", None)
    assert asked.attempts[0].usage is not None
    assert asked.attempts[0].usage.output_tokens == 3


async def test_a_stream_cut_after_its_finish_is_complete_with_estimated_usage(a, build: Build) -> None:
    """A missing goodbye is tolerated only because the finish reason was seen."""
    a.script(hang("one two", usage=UsageStyle.MISSING))
    asked = await ask(build(provider("a", a), idle_timeout_s=0.3), a_call(stream=True))
    assert (asked.text, asked.error) == ("one two", None)
    assert asked.attempts[0].usage is not None
    assert asked.attempts[0].usage.estimated


async def test_a_200_that_is_no_event_stream_is_no_answer(a, b, build: Build) -> None:
    a.always(ok("<html>", headers={"content-type": "text/html"}))
    asked = await ask(build(provider("a", a), provider("b", b)), a_call())
    assert asked.text == "hello"


async def test_a_redirect_is_not_followed_as_it_would_carry_the_key_away(a, b, build: Build) -> None:
    a.always(error(307, headers={"location": f"{b.base_url}/chat/completions"}))
    asked = await ask(build(provider("a", a)), a_call())
    assert isinstance(asked.error, FrontierUnavailable)
    assert b.calls == 0


@BOTH
async def test_a_refused_request_is_passed_on_at_once_without_a_retry_storm(kind: str, a, b, build: Build) -> None:
    """400 from the content filter. Nobody else is asked, the breaker does not count it."""
    observer = Counted()
    a.script(content_filter_400())
    client = build(provider("a", a, kind=kind, breaker={"failures_to_open": 1}), provider("b", b), observer=observer)
    asked = await ask(client, a_call())
    assert isinstance(asked.error, FrontierRejected)
    assert asked.error.http_status == 400
    assert "filtered" in asked.error.message
    assert (a.calls, b.calls) == (1, 0)
    assert observer.changes == []


@BOTH
@EITHER_WAY
async def test_a_filtered_answer_keeps_its_finish_reason(kind: str, stream: bool, a, build: Build) -> None:
    """200 with finish_reason content_filter, at Anthropic stop_reason refusal."""
    a.script(content_filter_200("I "))
    asked = await ask(build(provider("a", a, kind=kind)), a_call(stream=stream))
    assert [f.finish_reason for f in asked.frames if f.finish_reason] == ["content_filter"]
    assert asked.attempts[0].outcome is SERVED
    assert a.calls == 1


async def test_a_fallback_that_refuses_a_parameter_gives_a_clear_400(a, b, ab: HostedClient) -> None:
    a.always(error(503))
    b.script(error(400, "Unsupported parameter: seed", param="seed"))
    asked = await ask(ab, a_call(seed=1))
    assert isinstance(asked.error, FrontierRejected)
    assert (asked.error.http_status, asked.error.param) == (400, "seed")
    assert "'b'" in asked.error.message
    assert asked.frames == []


async def test_parameters_are_dropped_and_renamed_per_provider(a, b, build: Build) -> None:
    """Translated or dropped where the operator says so."""
    a.always(error(503))
    other = provider(
        "b", b, drop_params=["seed", "stream_options"], rename_params={"max_completion_tokens": "max_tokens"}
    )
    asked = await ask(build(provider("a", a), other), a_call(seed=1, max_completion_tokens=5))
    assert asked.error is None
    assert (a.bodies[0]["seed"], a.bodies[0]["max_completion_tokens"]) == (1, 5)
    assert not {"seed", "stream_options"} & set(b.bodies[0])
    assert b.bodies[0]["max_tokens"] == 5


async def test_what_one_provider_cannot_do_another_does(a, b, build: Build) -> None:
    client = build(provider("claude", a, kind="anthropic"), provider("b", b))
    asked = await ask(client, a_call(n=2))
    assert asked.error is None
    assert (a.calls, b.calls) == (0, 1)


async def test_what_no_provider_can_do_is_a_400_that_names_the_field(a, build: Build) -> None:
    asked = await ask(build(provider("claude", a, kind="anthropic")), a_call(n=2))
    assert isinstance(asked.error, InvalidRequest)
    assert asked.error.param == "n"
    assert a.calls == 0


async def test_text_that_is_no_unicode_is_the_callers_mistake(a, build: Build) -> None:
    asked = await ask(build(provider("a", a)), a_call(messages=[{"role": "user", "content": "\ud800"}]))
    assert isinstance(asked.error, FrontierRejected)
    assert asked.error.http_status == 400


SCRIPTS = [
    ok("one two three"),
    error(500),
    error(503),
    error(429, retry_after_s=0.001),
    error(400, "no"),
    error(401),
    reset(),
    cut("one two three", 1),
    cut("one two three", 2, clean=True),
    malformed_chunk("one two three"),
    no_done("one two three"),
    overloaded("one two three", 1),
    tool_call("f", {"x": 1}),
]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_any_mix_of_faults_books_every_call_once_and_never_shows_a_cut_answer_as_whole(
    seed: int, a, b, build: Build
) -> None:
    rng = random.Random(seed)
    breaker = {"failures_to_open": 1000}
    for _ in range(12):
        client = build(
            provider("a", a, kind=rng.choice(KINDS), breaker=breaker),
            provider("b", b, kind=rng.choice(KINDS), breaker=breaker),
            max_tries=rng.randint(1, 5),
        )
        before = a.calls + b.calls
        for upstream in (a, b):
            upstream.always(ok("one two three")).script(*(rng.choice(SCRIPTS) for _ in range(rng.randint(0, 4))))
        asked = await ask(client, a_call(stream=rng.random() < 0.5))
        assert len(asked.attempts) == a.calls + b.calls - before <= client._config.max_tries
        served = [x for x in asked.attempts if x.outcome is SERVED]
        assert len(served) == (asked.error is None)
        if asked.error is None:
            calls = [call for frame in asked.frames for call in frame.tool_calls]
            assert asked.text == "one two three" or calls == [ToolCall(name="f", arguments='{"x": 1}')]
            assert served[0] == asked.attempts[-1]
            last = max((*a.exchanges, *b.exchanges), key=lambda e: e.received)
            assert served[0].usage is not None
            assert served[0].usage.output_tokens == last.billed_output_tokens
        else:
            assert not any(frame.finish_reason for frame in asked.frames)
