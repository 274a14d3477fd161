"""serving/hosted/providers/anthropic_request.py: an OpenAI body as Anthropic's, or refused by name."""

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.hosted.config import ProviderConfig
from serving.hosted.faults import ProviderFault, Reason, Remedy
from serving.hosted.partial_answer import estimate_tokens
from serving.hosted.providers.anthropic_request import JSON_ONLY, to_anthropic

MARK = {"type": "ephemeral"}
ASK = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "d", "parameters": {"type": "object"}}}


def config(**options: Any) -> ProviderConfig:
    base = {
        "name": "claude",
        "kind": "anthropic",
        "base_url": "https://api.anthropic.com",
        "api_key": "k",
        "model": "opus",
        "max_context_tokens": 200_000,
        "max_output_tokens": 8000,
        "prompt_cache": {"enabled": False},
    }
    return ProviderConfig.model_validate({**base, **options})


def translated(*messages: dict[str, Any], config: ProviderConfig = config(), **body: Any) -> dict[str, Any]:  # noqa: B008
    return to_anthropic({"messages": list(messages) or [ASK], **body}, config, estimate_tokens)


def text(value: str) -> dict[str, str]:
    return {"type": "text", "text": value}


def a_tool_call(call_id: str, arguments: str = '{"city": "Bonn"}') -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "get_weather", "arguments": arguments}}


def test_system_and_developer_messages_become_the_system_prompt() -> None:
    params = translated({"role": "system", "content": "be kind"}, {"role": "developer", "content": "be brief"}, ASK)
    assert params["system"] == [text("be kind"), text("be brief")]
    assert params["messages"] == [{"role": "user", "content": [text("hi")]}]


def test_parallel_tool_calls_and_their_results_share_one_turn_each() -> None:
    params = translated(
        ASK,
        {"role": "assistant", "content": None, "tool_calls": [a_tool_call("c1"), a_tool_call("c2", "")]},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
        {"role": "tool", "tool_call_id": "c2", "content": ""},
        {"role": "user", "content": "so?"},
    )
    assert [m["role"] for m in params["messages"]] == ["user", "assistant", "user"]
    assert params["messages"][1]["content"] == [
        {"type": "tool_use", "id": "c1", "name": "get_weather", "input": {"city": "Bonn"}},
        {"type": "tool_use", "id": "c2", "name": "get_weather", "input": {}},
    ]
    assert params["messages"][2]["content"] == [
        {"type": "tool_result", "tool_use_id": "c1", "content": [text("sun")]},
        {"type": "tool_result", "tool_use_id": "c2", "content": []},
        text("so?"),
    ]


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, {"type": "auto"}),
        ("auto", False, {"type": "auto", "disable_parallel_tool_use": True}),
        ("required", None, {"type": "any"}),
        ("none", False, {"type": "none"}),
        ({"type": "function", "function": {"name": "get_weather"}}, None, {"type": "tool", "name": "get_weather"}),
    ],
)
def test_tool_choice(choice: Any, parallel: bool | None, expected: dict[str, Any]) -> None:
    params = translated(tools=[TOOL], tool_choice=choice, parallel_tool_calls=parallel)
    assert params["tool_choice"] == expected
    assert params["tools"] == [{"name": "get_weather", "description": "d", "input_schema": {"type": "object"}}]


def test_limits_are_always_set_and_cut_to_the_providers() -> None:
    assert translated()["max_tokens"] == 8000
    assert translated(max_tokens=5)["max_tokens"] == 5
    assert translated(max_completion_tokens=9_000, max_tokens=5)["max_tokens"] == 8000


def test_temperature_is_clamped_to_anthropics_range() -> None:
    assert translated(temperature=1.7)["temperature"] == 1.0
    assert translated(temperature=0)["temperature"] == 0
    assert "temperature" not in translated()


def test_stop_becomes_stop_sequences() -> None:
    assert translated(stop="END")["stop_sequences"] == ["END"]
    assert translated(stop=["a", "b"])["stop_sequences"] == ["a", "b"]
    assert "stop_sequences" not in translated(stop=None)


def test_a_json_schema_is_enforced_by_the_api() -> None:
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    params = translated(response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}})
    assert params["output_config"]["format"] == {
        "type": "json_schema",
        "schema": {**schema, "additionalProperties": False},
    }


def test_json_object_mode_becomes_an_instruction() -> None:
    params = translated({"role": "system", "content": "s"}, ASK, response_format={"type": "json_object"})
    assert params["system"] == [text("s"), text(JSON_ONLY)]


def test_images_are_passed_on() -> None:
    parts = [
        {"type": "image_url", "image_url": {"url": url}} for url in ("data:image/png;base64,QUJD", "https://x/y.png")
    ]
    blocks = translated({"role": "user", "content": parts})["messages"][0]["content"]
    assert blocks[0]["source"] == {"type": "base64", "media_type": "image/png", "data": "QUJD"}
    assert blocks[1]["source"] == {"type": "url", "url": "https://x/y.png"}


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("n", {"n": 2}),
        ("logprobs", {"logprobs": True}),
        ("logit_bias", {"logit_bias": {"5": 1}}),
        ("frequency_penalty", {"frequency_penalty": 0.5}),
        ("seed", {"seed": 0}),
        ("brand_new_knob", {"brand_new_knob": True}),
        ("stop", {"stop": ["\n\n"]}),
        ("tool_choice", {"tools": [TOOL], "tool_choice": {"type": "allowed_tools"}}),
        ("response_format", {"response_format": {"type": "json_schema", "json_schema": {"schema": {"minimum": 1}}}}),
        ("messages", {"messages": [ASK, {"role": "assistant", "content": "Sure: "}]}),
        ("messages", {"messages": [{"role": "system", "content": "s"}]}),
        ("messages", {"messages": [ASK, {"role": "assistant", "tool_calls": [a_tool_call("c", "{not json")]}, ASK]}),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(param: str, body: dict[str, Any]) -> None:
    """A clear refusal, so that another provider may answer. Never an answer that ignored the parameter."""
    with pytest.raises(ProviderFault) as refused:
        to_anthropic({"messages": [ASK], **body}, config(), estimate_tokens)
    assert (refused.value.param, refused.value.reason) == (param, Reason.UNTRANSLATABLE)
    assert refused.value.remedy is Remedy.ABANDON
    assert refused.value.client_error().http_status == 400


def test_drop_params_says_what_may_be_left_out() -> None:
    """Dropped where the operator said so."""
    lenient = config(drop_params=["seed", "frequency_penalty", "top_p"])
    params = translated(config=lenient, seed=1, frequency_penalty=0.5, top_p=0.9)
    assert not {"seed", "frequency_penalty", "top_p"} & set(params)


def test_values_that_ask_for_nothing_are_accepted() -> None:
    nothing = {
        "n": 1,
        "logprobs": False,
        "logit_bias": {},
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "seed": None,
    }
    assert translated(**nothing, tools=[], metadata={"team": "x"}, modalities=["text"]) == translated()


@pytest.mark.parametrize(("asked", "effort"), [("none", "low"), ("minimal", "low"), ("high", "high"), ("max", "max")])
def test_reasoning_effort(asked: str, effort: str) -> None:
    assert translated(reasoning_effort=asked)["output_config"] == {"effort": effort}


CACHED = config(prompt_cache={"enabled": True, "min_tokens": 10})


def marks(params: dict[str, Any]) -> list[str]:
    blocks = [("tools", params.get("tools", [])), ("system", params.get("system", []))]
    blocks += [(f"messages[{i}]", m["content"]) for i, m in enumerate(params["messages"])]
    return [f"{name}[{i}]" for name, bs in blocks for i, b in enumerate(bs) if b.get("cache_control") == MARK]


def test_tools_and_system_are_marked_for_the_prompt_cache() -> None:
    params = translated(
        {"role": "system", "content": "a"}, {"role": "system", "content": "b"}, ASK, tools=[TOOL, TOOL], config=CACHED
    )
    assert marks(params) == ["tools[1]", "system[1]"]


def test_the_newest_turn_is_marked_once_a_conversation_goes_on_and_is_long_enough() -> None:
    turns = [{"role": "user", "content": "word " * 20}, {"role": "assistant", "content": "yes"}, ASK]
    assert marks(translated(*turns[:1], config=CACHED)) == []
    assert marks(translated(*turns, config=CACHED)) == ["messages[2][0]"]
    assert marks(translated(ASK, turns[1], ASK, config=config(prompt_cache={"min_tokens": 1000}))) == []


def test_the_prompt_cache_can_be_switched_off() -> None:
    assert marks(translated({"role": "system", "content": "a"}, ASK, tools=[TOOL])) == []


TEXT = st.text(max_size=20)
CALLS = st.lists(st.sampled_from(["c1", "c2", "c3"]).map(a_tool_call), min_size=1, max_size=3)
MESSAGE = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "developer", "user", "assistant"]), "content": TEXT}),
    st.fixed_dictionaries({"role": st.just("assistant"), "content": st.none() | TEXT, "tool_calls": CALLS}),
    st.fixed_dictionaries({"role": st.just("tool"), "tool_call_id": st.just("c1"), "content": TEXT}),
)


@given(st.lists(MESSAGE, max_size=12))
def test_roles_alternate_no_text_is_blank_and_nothing_visible_is_lost(messages: list[dict[str, Any]]) -> None:
    messages = [*messages, ASK]
    before = json.dumps(messages)
    params = translated(*messages, config=CACHED)
    assert json.dumps(messages) == before, "the call is shared by all providers and must not change"
    roles = [m["role"] for m in params["messages"]]
    assert all(first != second for first, second in pairwise(roles))
    assert roles[-1] == "user"
    blocks = [*params.get("system", []), *(b for m in params["messages"] for b in m["content"])]
    assert all(b["text"].strip() for b in blocks if b["type"] == "text")
    said = json.dumps(params, ensure_ascii=False)
    for message in messages:
        if (content := message.get("content")) and content.strip():
            assert json.dumps(content, ensure_ascii=False) in said
    assert len(marks(params)) <= 4
