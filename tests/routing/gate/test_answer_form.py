from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.gate.answer_form import has_unparsed_call, json_fits, parse_json, tool_calls_fit, tools_by_name
from routing.ladder.features import request_features
from routing.ladder.policy import PolicyConfig
from routing.records import Api, ChoiceEvidence, ToolCall


def function(name: str, parameters: Any = None) -> dict[str, Any]:
    body = {"name": name} if parameters is None else {"name": name, "parameters": parameters}
    return {"type": "function", "function": body}


WEATHER = function(
    "get_weather",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False},
)
TIME = function("get_time")
CALL = ToolCall(name="get_weather", arguments='{"city": "Paris"}')


def fits(*calls: ToolCall, text: str = "", **body: Any) -> bool:
    body = {"messages": [{"role": "user", "content": "hi"}], "tools": [WEATHER, TIME], **body}
    features = request_features(body, Api.CHAT, 1, PolicyConfig())
    return tool_calls_fit(body, features, ChoiceEvidence(text=text, finish_reason="stop", tool_calls=calls))


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        ToolCall(name="get_time", arguments="{}"),
        ToolCall(name="get_time", arguments='{"zone": "CET"}'),
    ],
)
def test_a_call_that_can_be_run_fits(call: ToolCall) -> None:
    assert fits(call)
    assert fits(call, CALL)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("get_weather", ""),
        ("get_weather", "Paris"),
        ("get_weather", '{"city": "Paris"'),  # cut
        ("get_weather", '["Paris"]'),
        ("get_weather", "{}"),  # required argument missing
        ("get_weather", '{"city": 3}'),
        ("get_weather", '{"city": "Paris", "unit": "c"}'),
        ("get_weather", '{"city": NaN}'),
        ("get_weather", "[" * 100_000),
        ("get_wether", '{"city": "Paris"}'),  # unknown tool
        ("", "{}"),
    ],
)
def test_a_call_that_cannot_be_run_does_not_fit(name: str, arguments: str) -> None:
    """Bad JSON arguments, unknown tool, missing required."""
    assert not fits(ToolCall(name=name, arguments=arguments))
    assert not fits(CALL, ToolCall(name=name, arguments=arguments))


@pytest.mark.parametrize(
    ("calls", "body", "expected"),
    [
        ((), {}, True),
        ((), {"tool_choice": "auto"}, True),
        ((), {"tool_choice": "required"}, False),
        ((CALL,), {"tool_choice": "required"}, True),
        ((), {"tool_choice": function("get_time")}, False),
        ((CALL,), {"tool_choice": function("get_time")}, False),
        ((CALL,), {"tool_choice": function("get_weather")}, True),
        ((CALL,), {"tool_choice": "none"}, False),
        ((CALL,), {"tools": None}, False),
        ((CALL, CALL), {}, True),
        ((CALL, CALL), {"parallel_tool_calls": False}, False),
        ((CALL,), {"parallel_tool_calls": False}, True),
    ],
)
def test_calls_are_as_many_as_asked_for(calls: tuple[ToolCall, ...], body: dict[str, Any], expected: bool) -> None:
    assert fits(*calls, **body) is expected


@pytest.mark.parametrize(
    "text",
    [
        '{"name": "get_weather", "arguments": {"city": "Paris"}}',
        '```json\n{\n  "name": "get_weather",\n  "arguments": {"city": "Paris"}\n}\n```',
        'Sure! {"name":"get_weather","parameters":{"city":"Paris"}}',
        '[{"name": "get_time", "arguments": {}}]',
        '{"type": "function", "name": "get_time", "parameters": {}}',
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"',
        "<function=get_time></function>",
    ],
)
def test_a_call_left_in_the_text_does_not_fit(text: str) -> None:
    """Small models write calls as bare JSON, which the engine's parser leaves as text."""
    assert not fits(text=text)
    assert not fits(CALL, text=text)


@pytest.mark.parametrize(
    "text",
    [
        "It is sunny in Paris.",
        '{"name": "Anna", "arguments": "none"}',  # no tool of that name
        "I would call get_weather with the city as its argument.",
        "",
    ],
)
def test_plain_text_next_to_tools_fits(text: str) -> None:
    assert fits(text=text)


def test_without_tools_no_text_is_a_call() -> None:
    assert not has_unparsed_call('{"name": "get_weather", "arguments": {}}', {})


def test_odd_tools_are_no_tools() -> None:
    tools = [None, {}, {"function": None}, {"function": {"name": 3}}, TIME]
    assert list(tools_by_name({"tools": tools})) == ["get_time"]


SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def asks_for(kind: str, schema: Any = None, *, strict: bool | None = None) -> dict[str, Any]:
    named = {"name": "x", "schema": schema, "strict": strict}
    return {"response_format": {"type": kind} if schema is None else {"type": kind, "json_schema": named}}


@pytest.mark.parametrize(
    ("body", "text", "expected"),
    [
        (asks_for("json_object"), '{"a": 1}', True),
        (asks_for("json_object"), ' \n{"a": 1}\n', True),
        (asks_for("json_object"), "[1]", False),
        (asks_for("json_object"), '{"a": 1', False),
        (asks_for("json_object"), '```json\n{"a": 1}\n```', False),
        (asks_for("json_object"), 'Here it is: {"a": 1}', False),
        (asks_for("json_object"), '{"a": 1} {"b": 2}', False),
        (asks_for("json_object"), '{"a": NaN}', False),
        (asks_for("json_object"), "", False),
        (asks_for("json_schema", SCHEMA, strict=True), '{"n": 1}', True),
        (asks_for("json_schema", SCHEMA, strict=True), '{"n": "1"}', False),
        (asks_for("json_schema", SCHEMA, strict=False), "{}", False),
        (asks_for("json_schema", SCHEMA), "not JSON", False),
        (asks_for("json_schema", {"type": "array"}), "[]", True),
        (asks_for("json_schema"), "[]", True),  # no schema to fit
        (asks_for("text"), "anything", True),
        ({}, "anything", True),
    ],
)
def test_json_output_fits_what_was_asked_for(body: dict[str, Any], text: str, expected: bool) -> None:
    """JSON that does not match response_format."""
    assert json_fits(body, text) is expected


@given(st.text(max_size=60) | st.integers(1, 5_000).map(lambda n: "[" * n))
def test_any_text_parses_or_raises_value_error(text: str) -> None:
    """Depth is no crash."""
    try:
        parse_json(text)
    except ValueError:
        return
