"""The body of POST /v1/chat/completions."""

from typing import Annotated, Any, Literal

from pydantic import Field

from serving.api.chat_messages import (
    AssistantMessage,
    Dropped,
    FunctionTool,
    JsonSchemaFormat,
    Message,
    NamedToolChoice,
    ResponseFormat,
    ToolChoice,
    ToolMessage,
    check_conversation,
)
from serving.api.fields import SamplingBody, WireLimits, check_output_tokens, check_sampling, validate
from serving.api.json_body import parse_body
from serving.api.schema_limits import check_schema
from serving.errors import InvalidRequest

# Not sent on. `category` in it may name the request's category (routing/ladder/features.py).
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]


class ChatCompletionBody(SamplingBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=2048)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: Annotated[list[FunctionTool], Field(min_length=1, max_length=128)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    modalities: Annotated[list[Literal["text"]], Field(min_length=1, max_length=1)] | None = None
    verbosity: Literal["medium"] | None = None
    metadata: Metadata | None = None
    prediction: Dropped = None
    prompt_cache_key: Dropped = None
    prompt_cache_options: Dropped = None
    prompt_cache_retention: Dropped = None
    safety_identifier: Dropped = None
    service_tier: Dropped = None
    store: Dropped = None


def read_chat(raw: bytes, limits: WireLimits, vocab_size: int) -> ChatCompletionBody:
    """A validated body of /v1/chat/completions. Raises InvalidRequest with the dotted path of the field."""
    body = validate(ChatCompletionBody, parse_body(raw))
    check_sampling(body, limits, vocab_size)
    check_conversation(body.messages)
    _check_chat(body, limits)
    return body


def _check_chat(body: ChatCompletionBody, limits: WireLimits) -> None:
    check_output_tokens(body.max_completion_tokens, "max_completion_tokens", limits)
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        raise InvalidRequest("Set 'max_completion_tokens' or 'max_tokens' (deprecated), not both.", param="max_tokens")
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs' to be true.", param="top_logprobs")
    if isinstance(body.response_format, JsonSchemaFormat):
        check_schema(body.response_format.json_schema.schema_, "response_format.json_schema.schema")
    _check_tools(body)


def _check_tools(body: ChatCompletionBody) -> None:
    if body.tools is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if getattr(body, name) is not None:
                raise InvalidRequest(f"'{name}' is only allowed when 'tools' are given.", param=name)
        return
    names: set[str] = set()
    for i, tool in enumerate(body.tools):
        function = tool.function
        if function.name in names:
            raise InvalidRequest("Two tools share one name.", param=f"tools[{i}].function.name")
        names.add(function.name)
        if function.parameters is not None:
            check_schema(function.parameters, f"tools[{i}].function.parameters")
    if isinstance(body.tool_choice, NamedToolChoice) and body.tool_choice.function.name not in names:
        raise InvalidRequest("'tool_choice' names none of the 'tools'.", param="tool_choice.function.name")


def chat_call(body: ChatCompletionBody) -> dict[str, Any]:
    """The canonical body of a chat (see `formats.to_call_body`)."""
    fields = {
        "max_completion_tokens": body.max_completion_tokens or body.max_tokens,
        "logprobs": body.logprobs,
        "top_logprobs": body.top_logprobs,
        "tools": None if body.tools is None else [tool.model_dump(exclude_none=True) for tool in body.tools],
        "tool_choice": body.tool_choice.model_dump()
        if isinstance(body.tool_choice, NamedToolChoice)
        else body.tool_choice,
        "parallel_tool_calls": body.parallel_tool_calls,
        "response_format": body.response_format and body.response_format.model_dump(by_alias=True, exclude_none=True),
        "reasoning_effort": body.reasoning_effort,
    }
    return {
        "messages": [_message(message) for message in body.messages],
        **body.sampling_fields(),
        **{name: value for name, value in fields.items() if value is not None},
    }


def _message(message: Message) -> dict[str, Any]:
    result: dict[str, Any] = {"role": message.role, "content": _flat(message.content)}
    if isinstance(message, AssistantMessage):
        if message.content is None and message.refusal is not None:
            result["content"] = message.refusal
        if message.tool_calls:
            result["tool_calls"] = [call.model_dump(exclude={"index"}) for call in message.tool_calls]
    if isinstance(message, ToolMessage):
        result["tool_call_id"] = message.tool_call_id
    if message.name is not None:
        result["name"] = message.name
    return result


def _flat(content: Any) -> str:
    """Parts joined with a newline, as vLLM's string content format does."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(part.text if part.type == "text" else part.refusal for part in content)
