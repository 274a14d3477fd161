"""The engine through its handle: what tier 1 writes, and what the gate gets to see of it."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from routing.records import Api
from serving.engine.client import EngineClient
from serving.errors import ContextLengthExceeded, InvalidRequest
from serving.request.call import Call
from serving.request.frame import Frame
from tests.e2e.conftest import END_TO_END, TIER1, chat_ids, collect

pytestmark = END_TO_END

NewCall = Callable[..., Call]

QUESTION = {"messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 24, "temperature": 0.0}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
BOTH = pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])


def texts(frames: list[Frame]) -> dict[int, str]:
    """What was generated, by choice."""
    joined: dict[int, str] = {}
    for frame in frames:
        joined[frame.choice] = joined.get(frame.choice, "") + frame.text
    return joined


def contents(frames: list[Frame]) -> dict[int, str]:
    """What the client would read, by choice."""
    joined: dict[int, str] = {}
    for choice in (c for f in frames if f.data for c in json.loads(f.data)["choices"]):
        part = choice.get("delta", choice.get("message", choice))
        text = part.get("content") or part.get("text") or ""
        joined[choice["index"]] = joined.get(choice["index"], "") + text
    return joined


def bodies(frames: list[Frame]) -> list[dict[str, Any]]:
    """What goes to the client."""
    return [json.loads(f.data) for f in frames if f.data]


@BOTH
async def test_every_token_of_the_answer_has_its_evidence(tier1: EngineClient, new_call: NewCall, stream: bool) -> None:
    call = new_call(QUESTION, stream=stream)
    frames = await collect(tier1.draft(call))
    assert texts(frames) == contents(frames)
    assert len(texts(frames)[0]) > 5
    usage = frames[-1].usage
    assert usage is not None
    assert usage.input_tokens == len(call.prompt_token_ids)
    assert usage.output_tokens == sum(f.n_tokens for f in frames) == sum(len(f.logprobs) for f in frames)
    assert all(p <= 0 for f in frames for p in f.logprobs)
    assert [f.finish_reason for f in frames if f.finish_reason] == ["stop"]


@BOTH
async def test_answer_is_named_and_billed(tier1: EngineClient, new_call: NewCall, stream: bool) -> None:
    call = new_call(QUESTION, stream=stream)
    frames = await collect(tier1.draft(call))
    assert {b["id"] for b in bodies(frames)} == {f"chatcmpl-{call.request_id}"}
    assert {b["model"] for b in bodies(frames)} == {tier1.model}
    last = frames[-1]
    assert (last.model, bool(last.replica_id)) == (tier1.model, True)
    assert last.engine_s is not None
    assert last.engine_s > 0


async def test_stream_and_whole_answer_show_the_gate_the_same(tier1: EngineClient, new_call: NewCall) -> None:
    streamed = await collect(tier1.draft(new_call(QUESTION, stream=True)))
    whole = await collect(tier1.draft(new_call(QUESTION)))
    assert texts(streamed) == texts(whole)
    assert [p for f in streamed for p in f.logprobs] == pytest.approx([p for f in whole for p in f.logprobs], abs=0.05)


async def test_no_chunk_is_ahead_of_its_evidence(tier1: EngineClient, new_call: NewCall) -> None:
    shown = seen = ""
    for frame in await collect(tier1.draft(new_call(QUESTION, stream=True))):
        seen += frame.text
        shown += contents([frame]).get(0, "")
        assert seen.startswith(shown)


async def test_whole_answer_shows_evidence_while_it_is_written(tier1: EngineClient, new_call: NewCall) -> None:
    frames = await collect(tier1.draft(new_call(QUESTION)))
    assert len(frames) > 3
    assert [f.data is None for f in frames] == [True] * (len(frames) - 1) + [False]


async def test_stream_ends_with_usage_and_without_done(tier1: EngineClient, new_call: NewCall) -> None:
    frames = await collect(tier1.draft(new_call(QUESTION, stream=True)))
    last = json.loads(frames[-1].data or "")
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + last["usage"]["completion_tokens"]


@BOTH
async def test_two_choices_have_their_own_evidence_and_ending(
    tier1: EngineClient, new_call: NewCall, stream: bool
) -> None:
    body = {**QUESTION, "n": 2, "temperature": 1.0, "seed": 3, "max_tokens": 12}
    frames = await collect(tier1.draft(new_call(body, stream=stream)))
    assert texts(frames) == contents(frames)
    assert sorted(f.choice for f in frames if f.finish_reason) == [0, 1]
    usage = frames[-1].usage
    assert usage is not None
    assert usage.output_tokens == sum(f.n_tokens for f in frames)


@BOTH
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
async def test_tool_call_arrives_whole_on_the_finishing_frame(
    tier1: EngineClient, new_call: NewCall, stream: bool, choice: Any
) -> None:
    body = {
        "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
        "tools": [WEATHER],
        "tool_choice": choice,
        "max_tokens": 64,
        "temperature": 0.0,
    }
    frames = await collect(tier1.draft(new_call(body, stream=stream)))
    (ending,) = [f for f in frames if f.finish_reason]
    (tool_call,) = ending.tool_calls
    assert tool_call.name == "get_weather"
    assert list(json.loads(tool_call.arguments)) == ["city"]


@BOTH
async def test_json_schema_is_enforced(tier1: EngineClient, new_call: NewCall, stream: bool) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}, "n": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["colour", "n"],
        "additionalProperties": False,
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "pick", "schema": schema, "strict": True}}
    body = {
        "messages": [{"role": "user", "content": "Pick a colour."}],
        "response_format": response_format,
        "max_tokens": 64,
        "temperature": 0.0,
    }
    frames = await collect(tier1.draft(new_call(body, stream=stream)))
    picked = json.loads(texts(frames)[0])
    assert sorted(picked) == ["colour", "n"]
    assert picked["colour"] in ("red", "green")


@BOTH
async def test_logprobs_reach_the_client_only_on_request(tier1: EngineClient, new_call: NewCall, stream: bool) -> None:
    asked = await collect(tier1.draft(new_call({**QUESTION, "logprobs": True, "top_logprobs": 2}, stream=stream)))
    shown = [t for b in bodies(asked) for c in b["choices"] for t in (c.get("logprobs") or {}).get("content", [])]
    assert [t["logprob"] for t in shown] == pytest.approx([p for f in asked for p in f.logprobs])
    assert {len(t["top_logprobs"]) for t in shown} == {2}
    silent = await collect(tier1.draft(new_call(QUESTION, stream=stream)))
    assert not any(c.get("logprobs") for b in bodies(silent) for c in b["choices"])


@BOTH
async def test_stop_string_ends_the_text_before_it(tier1: EngineClient, new_call: NewCall, stream: bool) -> None:
    body = {"messages": [{"role": "user", "content": "Count: 1 2 3 4 5 6"}], "max_tokens": 40, "temperature": 0.0}
    full = texts(await collect(tier1.draft(new_call(body))))[0]
    stop = full[len(full) // 2 :][:3]
    frames = await collect(tier1.draft(new_call({**body, "stop": [stop]}, stream=stream)))
    assert texts(frames)[0] == contents(frames)[0] == full[: full.index(stop)]
    assert [f.finish_reason for f in frames if f.finish_reason] == ["stop"]


@BOTH
async def test_length_limit_is_the_finish_reason(tier1: EngineClient, new_call: NewCall, stream: bool) -> None:
    frames = await collect(tier1.draft(new_call({**QUESTION, "max_tokens": 3}, stream=stream)))
    assert [f.finish_reason for f in frames if f.finish_reason] == ["length"]
    assert sum(f.n_tokens for f in frames) == 3


async def test_seeded_prompt_of_several_steps_does_not_kill_the_engine(tier1: EngineClient, new_call: NewCall) -> None:
    """vLLM 0.32 dies of it on CPUs, so there a seed is left out."""
    long = {"messages": [{"role": "user", "content": "word " * 3 * TIER1.step_tokens}]}
    for _ in range(2):
        frames = await collect(
            tier1.draft(new_call({**long, "temperature": 1.0, "seed": 11, "max_tokens": 4, "min_tokens": 4}))
        )
        assert sum(f.n_tokens for f in frames) == 4


@BOTH
async def test_completions_speak_the_other_api(tier1: EngineClient, new_call: NewCall, stream: bool) -> None:
    body = {"prompt": "def add(a, b):\n    return", "max_tokens": 8, "temperature": 0.0}
    call = new_call(body, api=Api.COMPLETIONS, stream=stream)
    frames = await collect(tier1.draft(call))
    assert texts(frames) == contents(frames)
    assert {b["object"] for b in bodies(frames)} == {"text_completion"}
    assert {b["id"] for b in bodies(frames)} == {f"cmpl-{call.request_id}"}
    usage = frames[-1].usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (len(call.prompt_token_ids), sum(f.n_tokens for f in frames))
    assert len([f for f in frames if f.finish_reason]) == 1


@BOTH
@pytest.mark.parametrize(
    "bad",
    [
        {"logit_bias": {"9999999": 1.0}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}}},
        {"temperature": -1.0},
        {"top_logprobs": 5000, "logprobs": True},
        {"min_tokens": 50, "max_tokens": 5},
    ],
    ids=lambda bad: next(iter(bad)),
)
async def test_refused_parameters_are_the_callers_fault(
    tier1: EngineClient, new_call: NewCall, stream: bool, bad: dict[str, Any]
) -> None:
    """The engine refuses, says why, and lives."""
    with pytest.raises(InvalidRequest) as refusal:
        await collect(tier1.draft(new_call({**QUESTION, **bad}, stream=stream)))
    assert refusal.value.message
    assert "Traceback" not in refusal.value.message
    assert await collect(tier1.draft(new_call({**QUESTION, "max_tokens": 1})))


@BOTH
async def test_prompt_beyond_the_context_is_named(tier1: EngineClient, new_call: NewCall, stream: bool) -> None:
    """The prompt is too long for the engine, had the gateway process let it through."""
    body = {"messages": [{"role": "user", "content": "long " * 5000}], "max_tokens": 4}
    with pytest.raises(ContextLengthExceeded):
        await collect(tier1.draft(new_call(body, stream=stream)))


async def test_body_cannot_set_what_only_we_may_set(tier1: EngineClient, new_call: NewCall) -> None:
    """A field that slipped through the allow-list is overwritten."""
    smuggled = {
        "request_id": "theirs",
        "cache_salt": "theirs",
        "model": "theirs",
        "priority": -5,
        "kv_transfer_params": {"prompt_token_ids": [1, 2, 3]},
        "vllm_xargs": {"x": 1},
    }
    call = new_call({**QUESTION, **smuggled, "max_tokens": 2})
    frames = await collect(tier1.draft(call))
    (body,) = bodies(frames)
    assert body["id"] == f"chatcmpl-{call.request_id}"
    assert body["usage"]["prompt_tokens"] == len(call.prompt_token_ids)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "hi"}]},
        {"messages": [{"role": "system", "content": "Be terse."}, {"role": "user", "content": "naïve 漢字 🙂"}]},
        {"messages": [{"role": "user", "content": "weather?"}], "tools": [WEATHER]},
        {
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c"},
            ]
        },
    ],
    ids=["plain", "unicode", "tools", "turns"],
)
async def test_our_ids_are_vllms_own_rendering(tier1_handle: Any, tokenizer: Any, body: dict[str, Any]) -> None:
    assert chat_ids(tokenizer, body) == await tier1_handle.render.remote(body)


async def test_prefix_is_cached_within_a_tenant_and_never_across(tier1: EngineClient, new_call: NewCall) -> None:
    """Another tenant's salt finds nothing of ours."""
    body = {"messages": [{"role": "user", "content": "Remember this sentence well. " * 20}], "max_tokens": 2}
    cached = []
    for salt in ("tenant-a", "tenant-a", "tenant-b"):
        frames = await collect(tier1.draft(new_call(body, salt=salt)))
        assert frames[-1].usage is not None
        cached.append(frames[-1].usage.cached_tokens)
    assert cached[0] == cached[2] == 0
    assert cached[1] is not None
    assert cached[1] > 64
