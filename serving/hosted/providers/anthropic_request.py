"""Translates OpenAI's chat body into an Anthropic Messages request. No I/O.

A field without a counterpart at Anthropic is refused by name, unless the provider's `drop_params` allows to drop it.
An answer that silently ignores a parameter would read as one that followed it.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import anthropic

from serving.hosted.config import PromptCacheConfig, ProviderConfig
from serving.hosted.faults import ProviderFault, Reason, Remedy, Rule

Block = dict[str, Any]

NO_COUNTERPART = Rule(Reason.UNTRANSLATABLE, Remedy.ABANDON, False)
TRANSLATED = frozenset(
    {
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "top_p",
        "top_k",
        "stop",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
        "user",
    }
)
ASK_FOR_NOTHING: Mapping[str, tuple[Any, ...]] = {
    # Fields without a counterpart -> the values with which they change nothing. Any other value is refused.
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "min_tokens": (0,),
    "min_p": (0,),
    "repetition_penalty": (1,),
    "modalities": (["text"],),
    "verbosity": ("medium",),
}
ABOUT_THE_ACCOUNT = frozenset({"metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
PASSED_ON = ("top_p", "top_k")
EFFORTS = {"none": "low", "minimal": "low"} | {name: name for name in ("low", "medium", "high", "xhigh", "max")}
TOOL_CHOICES: Mapping[str, Block] = {"auto": {"type": "auto"}, "required": {"type": "any"}, "none": {"type": "none"}}
JSON_ONLY = "Answer with a single JSON object and nothing else."
MAX_TEMPERATURE = 1.0  # OpenAI's range ends at 2
DATA_URL = re.compile(r"data:(?P<media_type>[\w.+-]+/[\w.+-]+);base64,(?P<data>.+)", re.DOTALL)
EPHEMERAL = {"type": "ephemeral"}


def to_anthropic(body: Mapping[str, Any], config: ProviderConfig, count_tokens: Callable[[str], int]) -> dict[str, Any]:
    """The parameters of messages.create without `model` and `stream`.

    Raises ProviderFault (untranslatable, naming the field) when the request asks for what Anthropic does not have.
    """
    body = {name: value for name, value in body.items() if value is not None and name not in config.drop_params}
    for name in sorted(body.keys() - TRANSLATED - ABOUT_THE_ACCOUNT):
        if body[name] not in ASK_FOR_NOTHING.get(name, ()):
            raise _refuse(config, name, f"{name} has no counterpart at Anthropic")
    system, messages = _conversation(body["messages"], config)
    params: dict[str, Any] = {"max_tokens": _max_tokens(body, config), "messages": messages}
    params |= {name: body[name] for name in PASSED_ON if name in body}
    if "temperature" in body:
        params["temperature"] = min(body["temperature"], MAX_TEMPERATURE)
    if stops := _stop_sequences(body.get("stop"), config):
        params["stop_sequences"] = stops
    if isinstance(body.get("user"), str):
        params["metadata"] = {"user_id": body["user"]}
    if body.get("tools"):
        params["tools"] = [_tool(tool["function"], config) for tool in body["tools"]]
        params["tool_choice"] = _tool_choice(body, config)
    output, instruction = _output_config(body, config)
    if output:
        params["output_config"] = output
    if system or instruction:
        params["system"] = [{"type": "text", "text": text} for text in (*system, *instruction)]
    if config.prompt_cache.enabled:
        mark_stable_prefixes(params, config.prompt_cache, count_tokens)
    return params


def mark_stable_prefixes(params: dict[str, Any], config: PromptCacheConfig, count_tokens: Callable[[str], int]) -> None:
    """Put `cache_control` where later requests share everything before it. At most 3 of Anthropic's 4 marks.

    Tools and system recur in every request of an application, and marks on prefixes below Anthropic's minimum are free.
    The newest turn is marked only in a conversation that has already gone on. Writing costs 0.25 of the input price
    extra and a later read saves 0.9, so it pays above a 22 % chance (0.25 / 1.15) of a further turn. A single question
    gives no sign of one. Source of the factors: 1.25 and 0.1 in Anthropic's prompt caching guide.
    """
    for blocks in (params.get("tools"), params.get("system")):
        if blocks:
            blocks[-1]["cache_control"] = EPHEMERAL
    messages = params["messages"]
    continued = any(message["role"] == "assistant" for message in messages)
    if continued and count_tokens(json.dumps(messages, ensure_ascii=False)) >= config.min_tokens:
        messages[-1]["content"][-1]["cache_control"] = EPHEMERAL


def _conversation(
    source: Sequence[Mapping[str, Any]], config: ProviderConfig
) -> tuple[list[str], list[dict[str, Any]]]:
    """(system texts, messages with strictly alternating roles). Results of parallel tool calls share one user turn."""
    system: list[str] = []
    messages: list[dict[str, Any]] = []
    for message in source:
        role = message["role"]
        if role in ("system", "developer"):
            system.extend(block["text"] for block in _blocks(message.get("content"), config) if block["type"] == "text")
            continue
        blocks = list(_turn(message, config))
        if not blocks:
            continue  # Anthropic refuses empty text, and an empty turn says nothing
        role = "assistant" if role == "assistant" else "user"
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"].extend(blocks)
        else:
            messages.append({"role": role, "content": blocks})
    if not messages:
        raise _refuse(config, "messages", "there is no message with content besides system messages")
    if messages[-1]["role"] == "assistant":
        # OpenAI answers with a new message. Anthropic would continue this one, and newer models refuse to.
        raise _refuse(config, "messages", "the last message must not be the assistant's")
    return system, messages


def _turn(message: Mapping[str, Any], config: ProviderConfig) -> Iterator[Block]:
    if message["role"] == "tool":
        content = list(_blocks(message.get("content"), config))
        yield {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": content}
        return
    yield from _blocks(message.get("content"), config)
    for call in message.get("tool_calls") or ():
        function = call["function"]
        try:
            arguments = json.loads(function["arguments"] or "{}")
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            raise _refuse(config, "messages", f"the arguments of tool call {call['id']!r} are no JSON object")
        yield {"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments}


def _blocks(content: Any, config: ProviderConfig) -> Iterator[Block]:
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for part in content or ():
        match part.get("type"):
            case "text" | "refusal":
                text = part[part["type"]]
                if text.strip():  # Anthropic refuses empty and blank text blocks
                    yield {"type": "text", "text": text}
            case "image_url":
                yield {"type": "image", "source": _image_source(part["image_url"]["url"])}
            case kind:
                raise _refuse(config, "messages", f"content of type {kind!r} has no counterpart at Anthropic")


def _image_source(url: str) -> dict[str, str]:
    inline = DATA_URL.fullmatch(url)
    return {"type": "base64", **inline.groupdict()} if inline else {"type": "url", "url": url}


def _max_tokens(body: Mapping[str, Any], config: ProviderConfig) -> int:
    asked = body.get("max_completion_tokens") or body.get("max_tokens")
    assert config.max_output_tokens is not None  # required by ProviderConfig for this kind
    return min(asked or config.max_output_tokens, config.max_output_tokens)


def _stop_sequences(stop: Any, config: ProviderConfig) -> list[str]:
    stops = [stop] if isinstance(stop, str) else list(stop or ())
    if any(not text.strip() for text in stops):
        raise _refuse(config, "stop", "Anthropic takes no stop sequence made of white space alone")
    return stops


def _tool(function: Mapping[str, Any], config: ProviderConfig) -> Block:
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    tool: Block = {"name": function["name"], "input_schema": schema}
    if function.get("description"):
        tool["description"] = function["description"]
    if function.get("strict"):
        tool |= {"strict": True, "input_schema": _strict_schema(schema, "tools", config)}
    return tool


def _tool_choice(body: Mapping[str, Any], config: ProviderConfig) -> Block:
    chosen = body.get("tool_choice") or "auto"
    if isinstance(chosen, str):
        choice = dict(TOOL_CHOICES[chosen])
    elif chosen.get("type") == "function":
        choice = {"type": "tool", "name": chosen["function"]["name"]}
    else:
        raise _refuse(config, "tool_choice", f"type {chosen.get('type')!r} has no counterpart at Anthropic")
    if body.get("parallel_tool_calls") is False and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = True
    return choice


def _output_config(body: Mapping[str, Any], config: ProviderConfig) -> tuple[Block, list[str]]:
    """(output_config, extra system texts). The API enforces a schema, an instruction enforces bare json_object mode."""
    output: Block = {}
    if body.get("reasoning_effort") is not None:
        output["effort"] = EFFORTS[body["reasoning_effort"]]
    response_format = body.get("response_format") or {}
    match response_format.get("type"):
        case "json_schema":
            schema = response_format["json_schema"].get("schema") or {"type": "object"}
            schema = _strict_schema(schema, "response_format", config)
            output["format"] = {"type": "json_schema", "schema": schema}
        case "json_object":
            return output, [JSON_ONLY]
    return output, []


def _strict_schema(schema: dict[str, Any], param: str, config: ProviderConfig) -> dict[str, Any]:
    """The schema in the subset that Anthropic enforces. The SDK moves what is outside it into descriptions."""
    try:
        return anthropic.transform_schema(schema)
    except (ValueError, TypeError, AttributeError) as error:
        raise _refuse(config, param, f"the JSON schema cannot be enforced by Anthropic: {error}") from error


def _refuse(config: ProviderConfig, param: str, why: str) -> ProviderFault:
    return ProviderFault(config.name, NO_COUNTERPART, said=why, param=param)
