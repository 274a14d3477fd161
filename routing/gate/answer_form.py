"""Checks that a draft has the form the request asked for: tool calls that can be run, JSON that parses and fits."""

import json
import re
from collections.abc import Mapping
from typing import Any

from routing.gate.json_schema import matches
from routing.records import ChoiceEvidence, RequestFeatures, ToolCall
from routing.text.request_body import callable_tools, response_format

# Marks around a tool call that the engine's parser did not take: text that no client can use.
_CALL_MARKS = ("<tool_call>", "</tool_call>", "<|tool_call|>", "[TOOL_CALLS]", "<function=")
_UNPARSED_CALL = re.compile(
    r"""\{\s*"(?:type"\s*:\s*"function"\s*,\s*")?(?:name|function)"\s*:\s*"([^"\\]{1,128})"\s*,\s*"(?:arguments|parameters)"\s*:"""
)


def parse_json(text: str) -> Any:
    """A JSON value, strictly: no NaN, no Infinity. Raises ValueError, also for nesting that no parser survives."""
    try:
        return json.loads(text, parse_constant=_not_json)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _not_json(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def tools_by_name(body: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The functions the model may call, by name."""
    functions = (tool.get("function") for tool in callable_tools(body))
    return {f["name"]: f for f in functions if isinstance(f, Mapping) and isinstance(f.get("name"), str)}


def tool_calls_fit(body: Mapping[str, Any], features: RequestFeatures, choice: ChoiceEvidence) -> bool:
    """Whether every tool call can be run, the calls are as many as asked for, and none was left in the text."""
    tools = tools_by_name(body)
    calls = choice.tool_calls
    if features.tool_choice_required and not calls:
        return False
    if len(calls) > 1 and body.get("parallel_tool_calls") is False:
        return False
    forced = forced_tool(body)
    if forced is not None and any(call.name != forced for call in calls):
        return False
    return all(tool_call_fits(call, tools) for call in calls) and not has_unparsed_call(choice.text, tools)


def forced_tool(body: Mapping[str, Any]) -> str | None:
    """The one tool that tool_choice names, or None."""
    choice = body.get("tool_choice")
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None


def tool_call_fits(call: ToolCall, tools: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a call names a known tool and its arguments are a JSON object that matches the tool's parameters."""
    if call.name not in tools:
        return False
    try:
        arguments = parse_json(call.arguments)
    except ValueError:
        return False
    schema = tools[call.name].get("parameters")
    return isinstance(arguments, dict) and (schema is None or matches(arguments, schema))


def has_unparsed_call(text: str, tools: Mapping[str, Any]) -> bool:
    """Whether the text holds a call of a known tool that the engine's parser missed: small models forget the marks."""
    if not tools or not text:
        return False
    return any(mark in text for mark in _CALL_MARKS) or any(m[1] in tools for m in _UNPARSED_CALL.finditer(text))


def json_fits(body: Mapping[str, Any], text: str) -> bool:
    """Whether the text is what response_format asks for: a JSON object, or JSON that matches the schema, strict or not.

    Code fences around it do not fit: clients parse the content as it is.
    """
    wanted = response_format(body)
    if wanted not in ("json_object", "json_schema"):
        return True
    try:
        value = parse_json(text)
    except ValueError:
        return False
    if wanted == "json_object":
        return isinstance(value, dict)
    named = body["response_format"].get("json_schema")
    schema = named.get("schema") if isinstance(named, Mapping) else None
    return schema is None or matches(value, schema)
