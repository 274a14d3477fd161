"""The scripted upstream itself: what it must get right for the journey tests to mean anything."""

import time
from collections.abc import AsyncIterator

import openai
import pytest

from tests.journey.upstream import ScriptedUpstream, cut, error, ok, reset, silence, stall

MESSAGES: list = [{"role": "user", "content": "say three words"}]


@pytest.fixture
async def upstream() -> AsyncIterator[ScriptedUpstream]:
    async with ScriptedUpstream() as running:
        yield running


@pytest.fixture
async def sdk(upstream: ScriptedUpstream) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key="k", base_url=upstream.base_url, max_retries=0) as client:
        yield client


async def test_scripts_are_played_in_order_then_the_default(upstream, sdk) -> None:
    upstream.script(error(500), ok("one two"))
    with pytest.raises(openai.InternalServerError):
        await sdk.chat.completions.create(model="m", messages=MESSAGES)
    assert (await sdk.chat.completions.create(model="m", messages=MESSAGES)).choices[0].message.content == "one two"
    assert (await sdk.chat.completions.create(model="m", messages=MESSAGES)).choices[0].message.content == "hello"
    assert [e.billed_output_tokens for e in upstream.exchanges] == [0, 2, 1]


@pytest.mark.parametrize("script", [reset(), reset("a b c", 2), cut("a b c", 2)])
async def test_reset_and_cut_reach_the_client_as_connection_errors(upstream, sdk, script) -> None:
    upstream.script(script)
    with pytest.raises(openai.APIConnectionError):
        async for _ in await sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True):
            pass
    assert not upstream.exchanges[0].left.is_set(), "hung up by the script, not by the client"


@pytest.mark.parametrize("script", [stall("a b c", 1), ok("a b c", first_token_delay_s=60)])
async def test_a_client_that_leaves_is_noticed_at_once(upstream, sdk, script) -> None:
    upstream.script(script)
    stream = await sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    left = time.perf_counter()
    await stream.close()
    assert await upstream.exchanges[0].client_left() - left < 0.25
    await upstream.idle()


async def test_silence_ends_with_the_clients_own_timeout(upstream, sdk) -> None:
    upstream.script(silence())
    with pytest.raises(openai.APITimeoutError):
        await sdk.with_options(timeout=0.05).chat.completions.create(model="m", messages=MESSAGES)
    await upstream.exchanges[0].client_left()


async def test_partial_stream_is_billed_for_what_was_sent(upstream, sdk) -> None:
    upstream.script(cut("a b c d", 3, clean=True))
    stream = await sdk.chat.completions.create(model="m", messages=MESSAGES, stream=True)
    assert "".join([c.choices[0].delta.content or "" async for c in stream]) == "a b c "
    assert upstream.exchanges[0].billed_output_tokens == 3
