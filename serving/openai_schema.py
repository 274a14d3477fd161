"""The OpenAI bodies we accept: an allow-list, checked to the last field before anything downstream sees a request.

A field is honoured, accepted and ignored (it asks for nothing that changes the answer), or refused by name. Unknown
fields are refused too: a parameter that is silently ignored reads to the caller as one that works.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, Tag, ValidationError
from pydantic_core import ErrorDetails

from routing.records import Record, RequestedModel
from serving.errors import InvalidRequest, NotFound
from serving.json_body import parse_body
from serving.openai_messages import (
    NUL_FREE,
    WRONG_KIND,
    WRONG_TYPE,
    AssistantMessage,
    Dropped,
    FunctionTool,
    JsonSchemaFormat,
    Message,
    NamedToolChoice,
    ResponseFormat,
    StreamOptions,
    Text,
    ToolChoice,
    ToolMessage,
    Wire,
    check_conversation,
    text_or,
)
from serving.schema_bounds import check_schema

COMPLETION_MAX_TOKENS = 16  # what OpenAI takes when a completions request does not say
# vLLM refuses several choices at temperature 0, which OpenAI serves; below this it would sample no colder anyway.
SMALLEST_TEMPERATURE_OF_MANY = 0.01
SMALLEST_TOP_P = 1e-6  # top_p=0 means "the likeliest token alone"; vLLM takes (0, 1]

_ENGINE = "it belongs to the engine, not to the caller"
_DESTINATION = "where a request is sent is decided by the server's configuration"
_GUIDED = "use 'response_format'"
_SAMPLING = "it is not part of the OpenAI API and the frontier cannot honour it"
_TOOLS = "use 'tools' and 'tool_choice'"
_MEDIA = "only text is supported"
REFUSED: dict[str, str] = {
    **dict.fromkeys(
        (
            "cache_salt",
            "priority",
            "prompt_embeds",
            "kv_transfer_params",
            "ec_transfer_params",
            "logprob_token_ids",
            "vllm_xargs",
            "request_id",
            "session_id",
            "chat_template",
            "chat_template_kwargs",
            "documents",
            "mm_processor_kwargs",
            "media_io_kwargs",
            "add_generation_prompt",
            "continue_final_message",
            "add_special_tokens",
            "prompt_logprobs",
            "return_token_ids",
            "truncate_prompt_tokens",
        ),
        _ENGINE,
    ),
    **dict.fromkeys(("api_base", "api_key", "api_version", "base_url", "user_config"), _DESTINATION),
    **dict.fromkeys(
        (
            "guided_json",
            "guided_regex",
            "guided_choice",
            "guided_grammar",
            "guided_decoding_backend",
            "structured_outputs",
        ),
        _GUIDED,
    ),
    **dict.fromkeys(
        ("top_k", "min_p", "min_tokens", "repetition_penalty", "ignore_eos", "stop_token_ids", "use_beam_search"),
        _SAMPLING,
    ),
    **dict.fromkeys(("functions", "function_call"), _TOOLS),
    **dict.fromkeys(("audio", "image_url", "input_audio", "file"), _MEDIA),
    "web_search_options": "this server does not search the web",
    "moderation": "this server does not moderate",
}


class WireLimits(Record):
    """Bounds that OpenAI leaves to the server."""

    max_choices: int = Field(8, ge=1, le=128, description="largest n")
    max_output_tokens: int = Field(131_072, ge=1, description="largest max_tokens and max_completion_tokens")
    max_prompt_token_ids: int = Field(131_072, ge=1, description="longest prompt given as token ids")


OneStop = Annotated[str, Field(min_length=1, max_length=256, pattern=NUL_FREE)]
Stop = Annotated[
    Annotated[OneStop, Tag("=text")] | Annotated[list[OneStop], Tag("=other"), Field(max_length=4)],
    text_or(list, "an array of strings"),
]
Prompt = Annotated[
    Annotated[Text, Tag("=text")] | Annotated[list[Any], Tag("=other")],
    text_or(list, "an array of one string or of token ids"),
]
# Not sent on; `category` in it may name the request's category (routing/ladder/features.py).
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
]
Penalty = Annotated[float, Field(ge=-2, le=2)]
Bias = Annotated[float, Field(ge=-100, le=100)]


class SamplingBody(Wire):
    """The fields both endpoints share. null means absent, as with OpenAI."""

    model: Annotated[str, Field(min_length=1, max_length=256, examples=[m.value for m in RequestedModel])]
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    stop: Stop | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: Annotated[dict[str, Bias], Field(max_length=300)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Dropped = None

    def _common(self) -> dict[str, Any]:
        """The shared fields of a call body, canonical; absent ones left out."""
        temperature = self.temperature
        if temperature is not None and (self.n or 1) > 1:
            temperature = max(temperature, SMALLEST_TEMPERATURE_OF_MANY)
        fields = {
            "temperature": temperature,
            "top_p": None if self.top_p is None else max(self.top_p, SMALLEST_TOP_P),
            "n": self.n,
            "stop": [self.stop] if isinstance(self.stop, str) else self.stop or None,
            "seed": self.seed,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
            "logit_bias": self.logit_bias or None,
        }
        return {name: value for name, value in fields.items() if value is not None}


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


class CompletionBody(SamplingBody):
    """POST /v1/completions, one prompt a request."""

    prompt: Prompt
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: None = None


Body = TypeVar("Body", ChatCompletionBody, CompletionBody)


def read_chat(raw: bytes, limits: WireLimits, vocab_size: int) -> ChatCompletionBody:
    """A validated body of /v1/chat/completions. Raises InvalidRequest; param is the dotted path of the field."""
    body = _validate(ChatCompletionBody, parse_body(raw))
    _check_sampling(body, limits, vocab_size)
    check_conversation(body.messages)
    _check_chat(body, limits)
    return body


def read_completion(raw: bytes, limits: WireLimits, vocab_size: int) -> CompletionBody:
    """A validated body of /v1/completions. Raises InvalidRequest; param is the dotted path of the field."""
    body = _validate(CompletionBody, parse_body(raw))
    _check_sampling(body, limits, vocab_size)
    _prompt(body.prompt, limits.max_prompt_token_ids, vocab_size)
    return body


def requested_model(body: ChatCompletionBody | CompletionBody) -> RequestedModel:
    """The model the client asks for. Raises NotFound, as OpenAI does for a model it does not have."""
    try:
        return RequestedModel(body.model)
    except ValueError as error:
        known = ", ".join(f"'{m.value}'" for m in RequestedModel)
        raise NotFound(f"The model does not exist here; use one of {known}.", param="model") from error


def to_call_body(body: ChatCompletionBody | CompletionBody) -> dict[str, Any]:
    """The body in one canonical form for tier 1, the frontier and the tokenizer; see Call.body.

    Without model, stream and stream_options. Absent fields are left out; `stop` is a list; message contents are
    strings ("" where there is none); the output limit is `max_completion_tokens` for chat and always present as
    `max_tokens` for completions; a completions `prompt` is a string or a flat list of token ids.
    """
    return _chat_call(body) if isinstance(body, ChatCompletionBody) else _completion_call(body)


def request_body_openapi(model: type[BaseModel]) -> dict[str, Any]:
    """The `requestBody` of an OpenAPI operation whose handler reads the bytes itself; references are inlined."""
    schema = model.model_json_schema()
    return {
        "required": True,
        "content": {"application/json": {"schema": _inline(schema, schema.pop("$defs", {}))}},
    }


def _validate(model: type[Body], data: dict[str, Any]) -> Body:
    for name in data:
        if name in REFUSED:
            raise InvalidRequest(f"Parameter '{name}' is not supported: {REFUSED[name]}.", param=name)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _translate(error.errors(include_url=False)[0]) from error


def _check_sampling(body: SamplingBody, limits: WireLimits, vocab_size: int) -> None:
    if body.n is not None and body.n > limits.max_choices:
        raise InvalidRequest(f"Invalid 'n': at most {limits.max_choices}, got {body.n}.", param="n")
    _check_output_tokens(body.max_tokens, "max_tokens", limits)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    for token in body.logit_bias or ():
        if not (token.isascii() and token.isdigit() and len(token) < 20 and int(token) < vocab_size):
            raise InvalidRequest(
                f"Invalid key in 'logit_bias': expected a token id below {vocab_size}.", param="logit_bias"
            )


def _check_output_tokens(value: int | None, param: str, limits: WireLimits) -> None:
    if value is not None and value > limits.max_output_tokens:
        raise InvalidRequest(f"'{param}' is too large: at most {limits.max_output_tokens}, got {value}.", param=param)


def _check_chat(body: ChatCompletionBody, limits: WireLimits) -> None:
    _check_output_tokens(body.max_completion_tokens, "max_completion_tokens", limits)
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


def _prompt(prompt: str | list[Any], max_ids: int, vocab_size: int) -> str | list[int]:
    """One prompt, as text or token ids, out of OpenAI's four ways to write it."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        if not prompt:
            raise InvalidRequest("'prompt' is empty.", param="prompt")
        if "\x00" in prompt:
            raise InvalidRequest("'prompt' contains a NUL character.", param="prompt")
        return prompt
    if not prompt or len(prompt) > max_ids or not all(type(i) is int and 0 <= i < vocab_size for i in prompt):
        raise InvalidRequest(
            "One prompt per request: 'prompt' must be a string, a list of one string, or a list of 1 to "
            f"{max_ids} token ids below {vocab_size}.",
            param="prompt",
        )
    return prompt


def _completion_call(body: CompletionBody) -> dict[str, Any]:
    prompt = body.prompt
    if isinstance(prompt, list) and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    call = {"prompt": prompt, "max_tokens": body.max_tokens or COMPLETION_MAX_TOKENS, **body._common()}
    if body.logprobs is not None:
        call["logprobs"] = body.logprobs
    return call


def _chat_call(body: ChatCompletionBody) -> dict[str, Any]:
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
        **body._common(),
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


_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "none_required": "null",
}


def _translate(error: ErrorDetails) -> InvalidRequest:
    """One pydantic error in OpenAI's words. Never holds more of the input than the names of its fields."""
    kind, context = error["type"], error.get("ctx", {})
    param = _path(error["loc"], unknown_key=kind == "extra_forbidden")
    if kind == "missing":
        return InvalidRequest(f"Missing required parameter: '{param}'.", param=param)
    if kind == "extra_forbidden":
        return InvalidRequest(f"Unknown parameter: '{param}'.", param=param)
    if kind.startswith(WRONG_KIND) and isinstance(error["input"], dict):
        param = f"{param}.{kind.removeprefix(WRONG_KIND)}"
        return InvalidRequest(f"Invalid '{param}': supported values are: {error['msg']}.", param=param)
    if kind == "literal_error":
        return InvalidRequest(f"Invalid '{param}': supported values are: {context['expected']}.", param=param)
    if kind in _EXPECTED or kind == WRONG_TYPE or kind.startswith(WRONG_KIND):
        expected = error["msg"] if kind == WRONG_TYPE else _EXPECTED.get(kind, "an object")
        return InvalidRequest(f"Invalid type for '{param}': expected {expected}.", param=param)
    if kind == "string_pattern_mismatch" and context["pattern"] == NUL_FREE:
        return InvalidRequest(f"'{param}' contains a NUL character.", param=param)
    message = error["msg"].replace("List", "Array").replace(" after validation", "")
    return InvalidRequest(f"Invalid '{param}': {message}.", param=param)


def _path(loc: tuple[int | str, ...], unknown_key: bool) -> str:
    """("messages", 2, "=user", "content") as "messages[2].content".

    A part that begins with "=" marks the chosen member of a union, unless it is the caller's own unknown key.
    """
    path = ""
    for i, part in enumerate(loc):
        if isinstance(part, int):
            path += f"[{part}]"
        elif not part.startswith("=") or (unknown_key and i == len(loc) - 1):
            path += f".{part[:100]}" if path else part[:100]
    return path


def _inline(node: Any, definitions: dict[str, Any]) -> Any:
    """The schema with every local reference replaced by what it names; our models are not recursive."""
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inline(definitions[node["$ref"].rsplit("/", 1)[1]], definitions)
    return {key: _inline(value, definitions) for key, value in node.items()}
