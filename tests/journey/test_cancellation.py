"""A client that leaves frees everything that ran for it, in every phase; load beyond the limits is refused at once."""

import asyncio
import gc
import random
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx
import psutil
import pytest

from routing.records import AttemptOutcome, RequestOutcome
from serving.cascade.gated_draft import GatedDraft
from serving.errors import QueueFull
from serving.gateway.response import AnswerResponse
from serving.request.trace import RequestTrace
from tests.journey.conftest import StartGateway
from tests.journey.gateway import Gateway
from tests.journey.scripted import Draft
from tests.journey.upstream import ok, stall

BODY: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hello there"}]}


async def leave_after(g: Gateway, body: dict[str, Any], phase: Callable[[], Any]) -> None:
    """Send a request, wait for the phase, hang up."""
    task = asyncio.create_task(g.http.post("/v1/chat/completions", json=body))
    await phase()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def assert_free(g: Gateway) -> None:
    """Nothing runs for anybody, and the gauges say so."""
    row = await g.row()
    assert row.outcome is RequestOutcome.CANCELLED
    assert row.status == 499
    await g.tier1.until(running=0)
    await g.upstream.idle()
    assert "tierwise_in_flight_requests 0.0" in (await g.http.get("/metrics")).text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_leaving_while_the_router_thinks(start: StartGateway, stream: bool) -> None:
    """The client leaves in the phase of the router."""
    async with start(cascade={"router_timeout_s": 30}) as g:
        g.router.score_answer = None
        await leave_after(g, {**BODY, "stream": stream}, lambda: g.router.bell.until(lambda: bool(g.router.scored)))
        await assert_free(g)
        assert g.tier1.calls == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("after", [0, 2], ids=["before-first-token", "mid-draft"])
async def test_leaving_while_the_draft_is_held(start: StartGateway, stream: bool, after: int) -> None:
    """The client leaves before the first token or in the hold. The engine aborts, the tokens made are billed."""
    async with start(draft={"first_token_timeout_s": 30, "idle_timeout_s": 30}) as g:
        never = asyncio.Event()
        g.tier1.script(Draft(text="one two three four", gate=never, gate_after=after))
        await leave_after(g, {**BODY, "stream": stream}, lambda: g.tier1.until(running=1, tokens=after))
        await assert_free(g)
        assert g.tier1.aborted == 1
        draft = (await g.row()).attempts[1]
        assert draft.outcome is AttemptOutcome.CANCELLED
        assert (draft.usage.output_tokens if draft.usage else 0) == after


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_leaving_while_the_frontier_answers(start: StartGateway, stream: bool) -> None:
    """The client leaves while the answer streams: the provider's connection is closed."""
    async with start(frontier={"idle_timeout_s": 30, "ttft_timeout_s": 30}) as g:
        g.upstream.script(stall("one two three", after=1))
        await leave_after(g, {**BODY, "model": "frontier", "stream": stream}, lambda: g.upstream.received(1))
        await assert_free(g)
        assert (await g.row()).attempts[0].outcome is AttemptOutcome.CANCELLED


async def test_reader_that_stops_reading_is_dropped_and_the_draft_aborted(start: StartGateway) -> None:
    """What is not read is not generated. After write_timeout_s the engine's slot is free."""
    async with start(policy={"default_hold": "off"}, response={"write_timeout_s": 0.3}) as g:
        g.tier1.script(Draft(text=" ".join(f"w{i}" * 200 for i in range(20_000))))
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, (g.http.base_url.host, g.http.base_url.port))
            raw = httpx.Request("POST", g.url, json={**BODY, "stream": True}).content
            head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            await loop.sock_sendall(client, f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw)
            await g.tier1.until(running=1)
            await g.tier1.until(running=0, within_s=10)
        assert g.tier1.aborted == 1
        assert g.tier1.tokens_made < 20_000


def alive() -> Counter[type]:
    """What a request consists of, as far as anything still holds it."""
    gc.collect()
    return Counter(type(o) for o in gc.get_objects() if isinstance(o, RequestTrace | GatedDraft | AnswerResponse))


@pytest.mark.slow
async def test_a_thousand_cancels_at_random_times_leave_nothing_behind(start: StartGateway) -> None:
    before = alive()
    async with start(gateway={"max_concurrent_requests": 200}) as g:
        g.tier1.always(Draft(text="one two three four five six", first_token_delay_s=0.01, token_delay_s=0.005))
        g.upstream.always(ok("one two three four", token_delay_s=0.005))
        dice = random.Random(43)

        async def one(number: int) -> None:
            body = {**BODY, "stream": bool(number % 2), "model": ("auto", "frontier")[number % 3 == 0]}
            task = asyncio.create_task(g.http.post("/v1/chat/completions", json=body))
            await asyncio.wait({task}, timeout=dice.random() * span_s)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        span_s, began = 60.0, time.perf_counter()
        await asyncio.gather(*(g.chat(stream=True) for _ in range(50)))
        span_s = time.perf_counter() - began  # what a batch takes on this machine now: cancels fall into every phase
        for start_at in range(0, 1000, 50):
            await asyncio.gather(*(one(n) for n in range(start_at, start_at + 50)))
            if start_at == 450:
                halfway_bytes = psutil.Process().memory_info().rss
        assert psutil.Process().memory_info().rss - halfway_bytes < 16 * 2**20, "500 cancels kept memory"
        await g.tier1.until(running=0)
        await g.upstream.idle()
        for _ in range(500):  # the gauge falls last, and nothing rings for it
            if (in_flight := g.stack.telemetry.in_flight._value.get()) == 0:
                break
            await asyncio.sleep(0.01)
        assert in_flight == 0
        assert len({row.request_id for row in g.rows}) == len(g.rows), "a request was settled twice"
        assert {row.outcome for row in g.rows} >= {RequestOutcome.OK, RequestOutcome.CANCELLED}
        g.tier1.always(Draft())
        assert (await g.chat()).status_code == 200, "the gateway still answers"
        kept = alive() - before
        assert all(count <= 1 for count in kept.values()), kept  # the newest may be on its way out


async def test_full_gateway_refuses_at_once_with_retry_after(start: StartGateway) -> None:
    """The limit of the gateway process."""
    async with start(gateway={"max_concurrent_requests": 1}, draft={"first_token_timeout_s": 30}) as g:
        ready = asyncio.Event()
        g.tier1.script(Draft(gate=ready))
        first = asyncio.create_task(g.chat())
        await g.tier1.until(running=1)
        refused = await g.chat()
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert refused.json()["error"]["code"] == "queue_full"
        ready.set()
        assert (await first).status_code == 200


async def test_full_tier_1_is_429_unless_the_policy_spills(start: StartGateway) -> None:
    """The queue of tier 1."""
    full = Draft(error=QueueFull("full", retry_after_s=2))
    async with start() as g:
        g.tier1.script(full)
        refused = await g.chat()
        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "2"
        assert g.upstream.calls == 0
    async with start(draft={"spill_when_full": True}) as g:
        g.tier1.script(full)
        spilled = await g.chat()
        assert spilled.json()["tierwise"]["tier"] == "frontier"
        assert spilled.json()["tierwise"]["verdict"]["reasons"] == ["tier1_busy"]


async def test_full_router_is_only_a_missing_score(g: Gateway) -> None:
    """The queue of the router: counted, decided without it."""
    g.router.score_answer = QueueFull("full", retry_after_s=1)
    reply = await g.chat()
    assert reply.status_code == 200
    assert reply.json()["tierwise"]["decision"] == "no_score"
