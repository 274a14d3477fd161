"""What is held, what is released, and when the frontier starts; streamed or not, the same holds."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from routing.records import AttemptKind, AttemptOutcome, RejectReason, RequestOutcome, Tier, ToolCall
from serving.errors import RouterFailed
from tests.journey.conftest import StartGateway
from tests.journey.gateway import Gateway
from tests.journey.scripted import BROKEN_ENGINE, Draft
from tests.journey.upstream import cut, error, ok, stall

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "answer",
        "schema": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    },
}
SECRET = "zanzibar"  # a word that only the draft contains

BAD_DRAFTS: dict[str, tuple[Draft, dict[str, Any], RejectReason]] = {
    "empty": (Draft(text=""), {}, RejectReason.EMPTY),
    "whitespace": (Draft(text="  \n "), {}, RejectReason.EMPTY),
    "loop": (Draft(text=f"{SECRET} and again " * 60), {}, RejectReason.LOOP),
    "refusal": (Draft(text=f"I'm sorry, but I can't assist with that {SECRET}."), {}, RejectReason.REFUSAL),
    "language": (
        Draft(text="这是一个完全不同的语言的回答。岛屿位于海中，气候温暖，居民以捕鱼为生，市场上出售香料和布匹。"),
        {},
        RejectReason.LANGUAGE,
    ),
    "truncated": (Draft(text=f"{SECRET} goes on and", finish_reason="length"), {}, RejectReason.TRUNCATED),
    "tool arguments": (
        Draft(text="", tool_calls=(ToolCall(name="weather", arguments='{"city": '),), finish_reason="tool_calls"),
        {"tools": [TOOL]},
        RejectReason.TOOL_CALL,
    ),
    "unknown tool": (
        Draft(text="", tool_calls=(ToolCall(name=SECRET, arguments="{}"),), finish_reason="tool_calls"),
        {"tools": [TOOL]},
        RejectReason.TOOL_CALL,
    ),
    "missing argument": (
        Draft(text="", tool_calls=(ToolCall(name="weather", arguments="{}"),), finish_reason="tool_calls"),
        {"tools": [TOOL]},
        RejectReason.TOOL_CALL,
    ),
    "schema": (Draft(text=f'{{"n": "{SECRET}"}}'), {"response_format": SCHEMA}, RejectReason.SCHEMA),
    "not json": (Draft(text=SECRET), {"response_format": {"type": "json_object"}}, RejectReason.SCHEMA),
}


def sse(reply: httpx.Response) -> list[Any]:
    """The parsed events of a stream; [DONE] as a string."""
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", BAD_DRAFTS)
async def test_bad_draft_never_reaches_the_client(g: Gateway, case: str, stream: bool) -> None:
    """Rejected for the right reason, replaced, not a byte of it on the wire."""
    draft, body, reason = BAD_DRAFTS[case]
    g.tier1.script(draft)
    g.upstream.script(ok("the frontier answers"))
    reply = await g.chat(
        "Please tell me something about the island and the people who live on it.", stream=stream, **body
    )
    assert reply.status_code == 200
    assert SECRET not in reply.text
    assert "这" not in reply.text
    assert "frontier" in reply.text
    row = await g.row()
    assert row.verdict is not None
    assert reason in row.verdict.reasons
    assert row.attempts[-1].kind is AttemptKind.FRONTIER


@pytest.mark.parametrize("verdict", [0.1, RouterFailed("dead"), None], ids=["bad", "dead", "silent"])
async def test_judge_that_says_no_or_nothing_sends_the_request_to_the_frontier(
    start: StartGateway, verdict: float | Exception | None
) -> None:
    """Fails closed, counted by reason."""
    async with start(gate={"judge_threshold": 0.5}) as g:
        g.router.judge_answer = verdict
        reply = await g.chat()
        assert reply.json()["tierwise"]["tier"] == "frontier"
        row = await g.row()
        assert row.verdict is not None
        expected = RejectReason.JUDGE if verdict == 0.1 else RejectReason.JUDGE_FAILED
        assert row.verdict.reasons == (expected,)
        assert f'tierwise_rejections_total{{reason="{expected}"}} 1.0' in (await g.http.get("/metrics")).text


async def test_judge_that_says_yes_releases_the_draft(start: StartGateway) -> None:
    async with start(gate={"judge_threshold": 0.5}) as g:
        reply = await g.chat()
        assert reply.json()["tierwise"]["tier"] == "tier1"
        assert [a.kind for a in (await g.row()).attempts] == [AttemptKind.ROUTER, AttemptKind.DRAFT, AttemptKind.JUDGE]


@pytest.mark.parametrize("score", [RouterFailed("dead"), None], ids=["dead", "silent"])
@pytest.mark.parametrize("tier", ["frontier", "tier1"])
async def test_without_a_score_the_policy_says_where_to_go(
    start: StartGateway, score: Exception | None, tier: str
) -> None:
    """Within the router's timeout, counted."""
    async with start(policy={"no_score_tier": tier}) as g:
        g.router.score_answer = score
        reply = await g.chat()
        assert reply.json()["tierwise"]["tier"] == tier
        assert reply.json()["tierwise"]["decision"] == "no_score"
        row = await g.row()
        assert row.attempts[0].kind is AttemptKind.ROUTER
        assert row.attempts[0].outcome in (AttemptOutcome.FAILED, AttemptOutcome.CANCELLED)


async def test_frontier_down_after_a_rejected_draft_is_an_honest_503(g: Gateway) -> None:
    """With the default policy."""
    g.tier1.script(Draft(text=""))
    g.upstream.always(error(503))
    reply = await g.chat()
    assert reply.status_code == 503
    assert reply.json()["error"]["code"] == "frontier_unavailable"
    assert (await g.row()).outcome is RequestOutcome.ERROR


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_frontier_down_may_show_the_rejected_draft_marked_degraded(start: StartGateway, stream: bool) -> None:
    """When the policy allows it."""
    async with start(cascade={"degrade_when_frontier_down": True}) as g:
        g.tier1.script(Draft(text="a truncated answer", finish_reason="length"))
        g.upstream.always(error(503))
        reply = await g.chat(stream=stream)
        assert reply.status_code == 200
        assert reply.headers["x-tierwise-degraded"] == "true"
        assert "truncated" in reply.text
        row = await g.row()
        assert row.degraded
        assert row.served_model == "scripted-tier1"


async def test_degraded_never_stands_in_for_a_frontier_asked_by_name(start: StartGateway) -> None:
    async with start(cascade={"degrade_when_frontier_down": True}) as g:
        g.upstream.always(error(503))
        assert (await g.chat(model="frontier")).status_code == 503


async def test_lost_draft_is_aborted_and_the_frontier_started_before_it_would_have_ended(g: Gateway) -> None:
    """Early abort: a loop is cut off in the engine; its tokens are billed as waste."""
    g.tier1.script(Draft(text=f"{SECRET} and again " * 2000))
    g.upstream.script(ok("saved"))
    reply = await g.chat(stream=True)
    assert "saved" in reply.text
    assert g.tier1.aborted == 1
    assert g.tier1.tokens_made < 1000
    draft = (await g.row()).attempts[1]
    assert draft.outcome is AttemptOutcome.ABORTED
    assert draft.usage is not None
    assert draft.usage.output_tokens == g.tier1.tokens_made
    assert draft.usage.estimated


async def test_engine_cut_during_hold_is_a_silent_switch(g: Gateway) -> None:
    """Nothing seen by the client. The draft's tokens are billed."""
    g.tier1.script(Draft(text=f"{SECRET} one two three", error=BROKEN_ENGINE, fail_after=3))
    g.upstream.script(ok("saved"))
    reply = await g.chat(stream=True)
    assert SECRET not in reply.text
    assert "saved" in reply.text
    assert sse(reply)[-1] == "[DONE]"
    draft = (await g.row()).attempts[1]
    assert draft.outcome is AttemptOutcome.FAILED
    assert draft.usage is not None
    assert draft.usage.output_tokens == 3


@pytest.mark.parametrize("hold", ["off", "prefix(2)"])
async def test_engine_cut_after_release_is_an_error_frame_and_no_done(start: StartGateway, hold: str) -> None:
    """The model is never switched after the first byte."""
    async with start(policy={"default_hold": hold}) as g:
        g.tier1.script(Draft(text="one two three four five", error=BROKEN_ENGINE, fail_after=4))
        reply = await g.chat(stream=True)
        events = sse(reply)
        assert "[DONE]" not in events
        assert events[-1]["error"]["code"] == "stream_broken"
        assert g.upstream.calls == 0
        row = await g.row()
        assert row.outcome is RequestOutcome.BROKEN
        assert row.attempts[1].outcome is AttemptOutcome.BROKEN


@pytest.mark.parametrize("hold", ["off", "prefix(2)"])
async def test_engine_cut_while_a_whole_answer_is_gathered_is_replaced(start: StartGateway, hold: str) -> None:
    """An answer that is not streamed leaves in one piece, so there is nothing to cut before its end."""
    async with start(policy={"default_hold": hold}) as g:
        g.tier1.script(Draft(text="one two three four five", error=BROKEN_ENGINE, fail_after=4))
        g.upstream.script(ok("saved"))
        reply = await g.chat()
        assert reply.json()["choices"][0]["message"]["content"] == "saved"
        assert reply.json()["tierwise"]["tier"] == Tier.FRONTIER
        row = await g.row()
        assert (row.outcome, row.served_tier) == (RequestOutcome.OK, Tier.FRONTIER)
        assert row.attempts[1].outcome is AttemptOutcome.FAILED
        assert row.verdict is not None
        assert row.verdict.reasons == (RejectReason.TIER1_FAILED,)


async def test_frontier_cut_after_release_is_an_error_frame_with_the_partial_tokens_billed(g: Gateway) -> None:
    g.upstream.script(cut("word " * 60, after=40))
    reply = await g.chat(model="frontier", stream=True)
    events = sse(reply)
    assert "[DONE]" not in events
    assert events[-1]["error"]["code"] == "stream_broken"
    attempt = (await g.row()).attempts[0]
    assert attempt.outcome is AttemptOutcome.BROKEN
    assert attempt.usage is not None
    assert attempt.usage.output_tokens > 0
    assert attempt.cost_usd is not None


async def test_tier_1_that_stalls_while_held_is_replaced(g: Gateway) -> None:
    """Nothing had been released: the idle timeout switches."""
    never = asyncio.Event()
    g.tier1.script(Draft(text="one two three", gate=never, gate_after=2))
    g.upstream.script(ok("saved"))
    reply = await g.chat(stream=True)
    assert "saved" in reply.text
    row = await g.row()
    assert row.verdict is not None
    assert row.verdict.reasons == (RejectReason.TIER1_TIMEOUT,)
    assert g.tier1.running == 0


async def test_frontier_that_stalls_after_release_becomes_an_error_frame(g: Gateway) -> None:
    """The idle timeout strikes after release."""
    g.upstream.script(stall("one two three four", after=2))
    events = sse(await g.chat(model="frontier", stream=True))
    assert events[-1]["error"]["code"] == "stream_broken"


async def test_held_stream_is_kept_alive_by_comments_and_metadata_moves_to_the_last_chunk(
    start: StartGateway,
) -> None:
    """Headers leave after hold_headers_s without a verdict; clients ignore the comments."""
    async with start(response={"hold_headers_s": 0.05, "keepalive_s": 0.05}) as g:
        ready = asyncio.Event()
        g.tier1.script(Draft(text="a b c", gate=ready, gate_after=1))
        async with g.http.stream(
            "POST",
            "/v1/chat/completions",
            json={"model": "auto", "stream": True, "messages": [{"role": "user", "content": "hello there"}]},
        ) as reply:
            assert "x-tierwise-verdict" not in reply.headers
            text = ""
            async for part in reply.aiter_text():
                text += part
                if text.count(": waiting") >= 2:
                    ready.set()
        assert '"a"' in text
        last = [line for line in text.splitlines() if line.startswith("data: {")][-1]
        assert json.loads(last[6:])["tierwise"]["verdict"] == {"accepted": True, "reasons": []}


async def test_stream_through_the_sdk_looks_like_the_providers(g: Gateway) -> None:
    g.tier1.script(Draft(text="a b c"))
    stream = await g.sdk.chat.completions.create(
        model="auto",
        messages=[{"role": "user", "content": "hello"}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "a b c"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3
    assert {c.model for c in chunks} == {"scripted-tier1"}


async def test_usage_chunk_is_only_sent_to_those_who_asked(g: Gateway) -> None:
    g.tier1.always(Draft(text="a b c"))
    without = sse(await g.chat(stream=True))
    asked = sse(await g.chat(stream=True, stream_options={"include_usage": True}))
    assert all(event["choices"] for event in without[:-1])
    assert asked[-2]["choices"] == []
    assert asked[-2]["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_tier_1_asked_for_by_name_answers_alone_with_its_verdict_on_record(g: Gateway, stream: bool) -> None:
    """What a client names it gets: the baseline "all tier 1" needs no other switch."""
    g.tier1.script(Draft(text="cut off", finish_reason="length"))
    reply = await g.chat(model="tier1", stream=stream)
    assert "cut" in reply.text
    assert g.upstream.calls == 0
    row = await g.row()
    assert row.verdict is not None
    assert row.verdict.reasons == (RejectReason.TRUNCATED,)
    assert row.attempts[0].outcome is AttemptOutcome.SERVED


async def test_tier_1_asked_for_by_name_fails_openly(g: Gateway) -> None:
    g.tier1.script(Draft(error=BROKEN_ENGINE))
    reply = await g.chat(model="tier1")
    assert reply.status_code == 502
    assert reply.json()["error"]["code"] == "tier1_failed"
    assert g.upstream.calls == 0
