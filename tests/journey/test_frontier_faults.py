"""Sixteen ways a provider fails, seen from the client and from the ledger; one budget of tries bounds them all."""

from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, InternalServerError

from routing.records import AttemptOutcome
from tests.journey.conftest import StartGateway
from tests.journey.gateway import Gateway, gateway, text_of
from tests.journey.upstream import (
    ScriptedUpstream,
    UsageStyle,
    content_filter_200,
    content_filter_400,
    empty_choices,
    error,
    malformed_chunk,
    no_done,
    ok,
    reset,
    silence,
    slow_first_token,
)


def two_providers(first: ScriptedUpstream, second: ScriptedUpstream, **limits: Any) -> dict[str, Any]:
    """A frontier section with a fallback; the second serves another model at another price."""
    common = {"kind": "openai", "api_key": "k", "max_context_tokens": 16384}
    return {
        "providers": [
            {"name": "up", "base_url": first.base_url, "model": "big", **common},
            {"name": "second", "base_url": second.base_url, "model": "other", **common},
        ],
        **limits,
    }


async def ask(g: Gateway, stream: bool) -> tuple[int, str]:
    """Status and text of one answer of the frontier."""
    reply = await g.chat(model="frontier", stream=stream)
    return reply.status_code, text_of(reply)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "fault",
    [error(429, retry_after_s=0), error(500), reset(), silence(), slow_first_token(3.0)],
    ids=["429-retry-after", "500", "reset", "silence", "slow"],
)
async def test_fault_that_passes_is_not_seen_by_the_client(
    tmp_path: Path, upstream: ScriptedUpstream, fault: Any, stream: bool
) -> None:
    """Retried or failed over, unseen. Every try is a row, only the last is served."""
    async with ScriptedUpstream(ok("the fallback")) as second:
        upstream.script(fault, ok("the first"))
        async with gateway(tmp_path, upstream, frontier=two_providers(upstream, second)) as g:
            status, text = await ask(g, stream)
            assert status == 200
            assert "the first" in text or "the fallback" in text
            attempts = (await g.row()).attempts
            assert [a.outcome for a in attempts] == [AttemptOutcome.FAILED, AttemptOutcome.SERVED]


async def test_rate_limit_longer_than_the_deadline_reaches_the_client_with_retry_after(start: StartGateway) -> None:
    """Nobody else to ask."""
    async with start(gateway={"request_deadline_s": 5}) as g:
        g.upstream.always(error(429, retry_after_s=60))
        reply = await g.chat(model="frontier")
        assert reply.status_code == 429
        assert int(reply.headers["retry-after"]) >= 50
        assert reply.json()["error"]["code"] == "frontier_rate_limited"


async def test_provider_down_for_good_opens_its_breaker_and_is_left_alone(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """After the breaker opened the dead provider is not called any more."""
    async with ScriptedUpstream(ok("the fallback")) as second:
        upstream.always(error(503))
        async with gateway(tmp_path, upstream, frontier=two_providers(upstream, second)) as g:
            for _ in range(12):
                status, text = await ask(g, False)
                assert status == 200
                assert "the fallback" in text
            assert upstream.calls < 12
            assert second.calls == 12


@pytest.mark.parametrize(
    "script",
    [
        malformed_chunk(),
        no_done("one two three"),
        empty_choices(),
        ok("one two three", usage=UsageStyle.WITH_CHOICES),
        ok("one two three", usage=UsageStyle.REPEATED),
    ],
    ids=["malformed", "no-done", "empty-choices", "usage-with-choices", "usage-repeated"],
)
async def test_sloppy_stream_is_tolerated_and_usage_counted_once(g: Gateway, script: Any) -> None:
    g.upstream.script(script)
    reply = await g.chat(model="frontier", stream=True)
    assert reply.text.rstrip().endswith("data: [DONE]")
    usage = (await g.row()).attempts[0].usage
    assert usage is not None
    assert usage.output_tokens == 3
    assert g.upstream.billed_output_tokens == 3


async def test_content_filter_is_passed_on_without_a_retry(g: Gateway) -> None:
    g.upstream.script(content_filter_400(), content_filter_200("half"))
    refused = await g.chat(model="frontier")
    assert refused.status_code == 400
    assert g.upstream.calls == 1
    stopped = await g.chat(model="frontier")
    assert stopped.json()["choices"][0]["finish_reason"] == "content_filter"
    assert g.upstream.calls == 2


async def test_rejected_parameters_are_a_clear_400_never_a_truncated_success(g: Gateway) -> None:
    g.upstream.always(error(400, "Unsupported value: 'temperature'", param="temperature"))
    reply = await g.chat(model="frontier", temperature=0.3)
    assert reply.status_code == 400
    assert g.upstream.calls == 1


async def test_after_failover_model_usage_and_cost_are_those_of_the_serving_provider(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    price = {"input_usd": 100, "output_usd": 100, "source": "test", "as_of": "2026-11-01"}
    upstream.always(error(500))
    async with ScriptedUpstream(ok("four words of text", input_tokens=10)) as second:
        cost = {"frontier": {"up/big": {**price, "input_usd": 1}, "second/other": price}, "baseline": "up/big"}
        async with gateway(tmp_path, upstream, frontier=two_providers(upstream, second), cost=cost) as g:
            reply = (await g.chat(model="frontier")).json()
            assert reply["model"] == "other"
            assert reply["usage"]["completion_tokens"] == 4
            row = await g.row()
            assert row.served_model == "other"
            assert row.cost_usd == pytest.approx((10 + 4) * 100 / 1e6)


async def test_one_budget_bounds_every_attempt_however_the_client_asks(g: Gateway) -> None:
    """max_tries upstream calls for one request. The SDKs upstream do not retry by themselves."""
    g.upstream.always(error(500))
    assert (await g.chat(model="frontier")).status_code == 503
    assert g.upstream.calls == 3


async def test_an_sdk_with_its_default_retries_does_not_multiply_a_budget_that_is_spent(g: Gateway) -> None:
    """Our 503 says that it was tried already, and the SDK believes it."""
    g.upstream.always(error(500))
    client = AsyncOpenAI(base_url=f"{g.url}/v1", api_key="none")
    assert client.max_retries > 0
    with pytest.raises(InternalServerError):
        await client.chat.completions.create(model="frontier", messages=[{"role": "user", "content": "hi"}])
    assert g.upstream.calls == 3


async def test_missing_price_is_null_and_an_alarm(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    cost = {"frontier": {}, "baseline": None, "engine_usd_per_hour": {}}
    async with gateway(tmp_path, upstream, cost=cost) as g:
        reply = (await g.chat(model="frontier")).json()
        assert reply["tierwise"]["cost_usd"] is None
        assert (await g.row()).cost_usd is None
        assert 'tierwise_unknown_price_attempts_total{kind="frontier"} 1.0' in (await g.http.get("/metrics")).text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_missing_usage_is_estimated_and_marked(g: Gateway, stream: bool) -> None:
    g.upstream.script(ok("one two three", usage=UsageStyle.MISSING))
    await g.chat(model="frontier", stream=stream)
    usage = (await g.row()).attempts[0].usage
    assert usage is not None
    assert usage.estimated
    assert usage.output_tokens > 0


async def test_provider_key_never_reaches_the_client(g: Gateway) -> None:
    g.upstream.always(error(401, "Incorrect API key provided: sk-upstream-secret"))
    reply = await g.chat(model="frontier")
    assert reply.status_code >= 500
    assert "sk-upstream-secret" not in reply.text


async def test_anthropic_provider_answers_in_openais_shape(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    provider = {
        "name": "up",
        "kind": "anthropic",
        "base_url": upstream.url,
        "api_key": "k",
        "model": "big",
        "max_context_tokens": 16384,
        "max_output_tokens": 1024,
    }
    upstream.always(ok("three short words", input_tokens=7))
    async with gateway(tmp_path, upstream, frontier={"providers": [provider]}) as g:
        sdk: AsyncOpenAI = g.sdk
        reply = await sdk.chat.completions.create(model="frontier", messages=[{"role": "user", "content": "hi"}])
        assert reply.choices[0].message.content == "three short words"
        assert reply.usage is not None
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (7, 3)
        assert text_of(await g.chat(model="frontier", stream=True)) == "three short words"
