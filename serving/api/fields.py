"""The fields that both endpoints share, and the checks of every field of a body.

A field is honoured, or accepted and ignored (it changes nothing in the answer), or refused by name. Unknown fields are
refused too, because a caller takes a parameter that is silently ignored for one that works.
"""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, Tag, ValidationError
from pydantic_core import ErrorDetails

from routing.records import Record, RequestedModel
from serving.api.chat_messages import (
    NUL_FREE,
    WRONG_KIND,
    WRONG_TYPE,
    Dropped,
    StreamOptions,
    Wire,
    text_or,
)
from serving.errors import InvalidRequest

# vLLM rejects n > 1 at temperature 0, OpenAI allows it. 0.01 gives practically the same answers.
SMALLEST_TEMPERATURE_OF_MANY = 0.01
SMALLEST_TOP_P = 1e-6  # top_p=0 means "the likeliest token alone", and vLLM takes (0, 1]

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

    def sampling_fields(self) -> dict[str, Any]:
        """The shared fields of a call body in canonical form. Absent ones are left out."""
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


Body = TypeVar("Body", bound=SamplingBody)


def request_body_openapi(model: type[BaseModel]) -> dict[str, Any]:
    """The `requestBody` of an OpenAPI operation whose handler reads the bytes itself. References are inlined."""
    schema = model.model_json_schema()
    return {
        "required": True,
        "content": {"application/json": {"schema": _inline(schema, schema.pop("$defs", {}))}},
    }


def validate(model: type[Body], data: dict[str, Any]) -> Body:
    """The body that `data` describes. Raises InvalidRequest, in OpenAI's words, for the first field that is wrong."""
    for name in data:
        if name in REFUSED:
            raise InvalidRequest(f"Parameter '{name}' is not supported: {REFUSED[name]}.", param=name)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _translate(error.errors(include_url=False)[0]) from error


def check_sampling(body: SamplingBody, limits: WireLimits, vocab_size: int) -> None:
    """Check the rules between fields and against the limits. Raises InvalidRequest.

    vocab_size: tokens of tier 1's vocabulary.
    """
    if body.n is not None and body.n > limits.max_choices:
        raise InvalidRequest(f"Invalid 'n': at most {limits.max_choices}, got {body.n}.", param="n")
    check_output_tokens(body.max_tokens, "max_tokens", limits)
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    for token in body.logit_bias or ():
        if not (token.isascii() and token.isdigit() and len(token) < 20 and int(token) < vocab_size):
            raise InvalidRequest(
                f"Invalid key in 'logit_bias': expected a token id below {vocab_size}.", param="logit_bias"
            )


def check_output_tokens(value: int | None, param: str, limits: WireLimits) -> None:
    """Raise InvalidRequest when an output limit, in tokens, is above ours."""
    if value is not None and value > limits.max_output_tokens:
        raise InvalidRequest(f"'{param}' is too large: at most {limits.max_output_tokens}, got {value}.", param=param)


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
    """The schema with every local reference replaced by what it names. Our models are not recursive."""
    if isinstance(node, list):
        return [_inline(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inline(definitions[node["$ref"].rsplit("/", 1)[1]], definitions)
    return {key: _inline(value, definitions) for key, value in node.items()}
