"""The load generator on real HTTP: open loop keeps its own time, failures are kept, tokens are the server's."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.load.client import Sample, new_session, open_loop, request, take_line


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async def answer(got: web.Request) -> web.StreamResponse:
        body = await got.json()
        if body["model"] == "broken":
            return web.json_response({"error": {"message": "no"}}, status=503)
        stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await stream.prepare(got)
        for text in ("a", "b"):
            await stream.write(b'data: {"choices": [{"delta": {"content": "%s"}}]}\n\n' % text.encode())
        await stream.write(b'data: {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 5}}\n\n')
        await stream.write(b"data: [DONE]\n\n")
        return stream

    app = web.Application()
    app.router.add_post("/v1/chat/completions", answer)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    yield str(server.make_url("/v1/chat/completions"))
    await server.close()


async def test_tokens_come_from_usage_and_not_from_frames(url: str) -> None:
    async with new_session() as session:
        sample = await request(session, url, {"model": "m", "stream": True})
    assert (sample.output_tokens, sample.input_tokens, sample.text, len(sample.frames_s)) == (5, 7, "ab", 2)
    assert sample.ttft_s is not None
    assert sample.e2e_s is not None
    assert 0 < sample.ttft_s <= sample.e2e_s


async def test_what_follows_the_last_token_is_no_decoding_time(url: str) -> None:
    async with new_session() as session:
        sample = await request(session, url, {"model": "m", "stream": True})
    assert sample.last_s == sample.frames_s[-1]
    assert sample.last_s is not None
    assert sample.tpot_s == (sample.last_s - sample.frames_s[0]) / 4


def test_finish_reason_alone_ends_the_answer() -> None:
    sample = Sample(0.0, ttft_s=1.0)
    take_line(sample, b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}')
    assert sample.last_s is not None
    assert sample.frames_s == []


async def test_a_refusal_is_a_failed_sample(url: str) -> None:
    async with new_session() as session:
        sample = await request(session, url, {"model": "broken", "stream": True})
    assert sample.status == 503
    assert sample.error is not None


async def test_open_loop_does_not_wait_for_answers_and_says_how_late_it_was() -> None:
    sent = 0
    all_sent = asyncio.Event()

    async def send(number: int) -> Sample:
        nonlocal sent
        sent += 1
        if sent == 4:
            all_sent.set()
        sample = Sample(started_s=asyncio.get_running_loop().time())
        await all_sent.wait()
        return sample

    async with asyncio.timeout(30):
        samples, wall_s = await open_loop(send, [0.0, 0.01, 0.02, 0.03])
    assert len(samples) == 4
    assert wall_s >= 0.03
    assert all(sample.late_s is not None and sample.late_s >= -0.001 for sample in samples)
