"""The parts an OpenAI body is made of: messages, tools and response formats, as strict wire models."""

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from serving.api.json_body import check_shape, refuse_surrogates
from serving.errors import InvalidRequest

NAME = r"^[a-zA-Z0-9_-]{1,64}$"
# NUL ends strings in C and cannot be stored in Postgres. Every other control character is text: tool results carry
# terminal escapes.
NUL_FREE = r"^[^\x00]*$"

Text = Annotated[str, Field(pattern=NUL_FREE)]
Dropped = Annotated[Any, Field(description="Accepted and ignored.")]


class Wire(BaseModel):
    """A JSON object in a request. Types are exact (no "1" for 1) and unknown fields are refused."""

    # Inputs stay out of pydantic's own messages: those may be logged, and prompts never are.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)


# Members of a union are told apart before they are validated, so that an error is about the one that was meant. Their
# tags begin with "=", which no field of ours does: serving/api/fields.py leaves them out of error paths.
WRONG_KIND = "wrong_kind:"  # and the field that tells the members apart
WRONG_TYPE = "wrong_type"


def one_of(field: str, *values: str) -> Discriminator:
    """A union of objects whose `field` is one of `values`. The error names the field and the values."""

    def tag(value: Any) -> str | None:
        found = value.get(field) if isinstance(value, dict) else getattr(value, field, None)
        return f"={found}" if found in values else None

    supported = ", ".join(f"'{value}'" for value in values)
    return Discriminator(tag, custom_error_type=WRONG_KIND + field, custom_error_message=supported)


def text_or(other: type, name: str) -> Discriminator:
    """A union of a string and one other JSON type, tagged "=text" and "=other"."""

    def tag(value: Any) -> str | None:
        return "=text" if isinstance(value, str) else "=other" if isinstance(value, other | Wire) else None

    return Discriminator(tag, custom_error_type=WRONG_TYPE, custom_error_message=f"a string or {name}")


class TextPart(Wire):
    """One text part of a message. Parts are joined with a newline, as vLLM does. Nothing is ever fetched."""

    type: Literal["text"]
    text: Text
    cache_control: Dropped = None
    prompt_cache_breakpoint: Dropped = None


class RefusalPart(Wire):
    """A refusal of an earlier answer, sent back as part of the conversation."""

    type: Literal["refusal"]
    refusal: Text


TextContent = Annotated[
    Annotated[Text, Tag("=text")] | Annotated[list[TextPart], Tag("=other"), Field(min_length=1)],
    text_or(list, "an array of text parts"),
]
AssistantPart = Annotated[
    Annotated[TextPart, Tag("=text")] | Annotated[RefusalPart, Tag("=refusal")], one_of("type", "text", "refusal")
]
AssistantContent = Annotated[
    Annotated[Text, Tag("=text")] | Annotated[list[AssistantPart], Tag("=other"), Field(min_length=1)],
    text_or(list, "an array of text and refusal parts"),
]


class SystemMessage(Wire):
    """Instructions of the application."""

    role: Literal["system"]
    content: TextContent
    name: Annotated[str, Field(pattern=NAME)] | None = None


class DeveloperMessage(Wire):
    """Instructions of the application, in OpenAI's newer word."""

    role: Literal["developer"]
    content: TextContent
    name: Annotated[str, Field(pattern=NAME)] | None = None


class UserMessage(Wire):
    """What the user said."""

    role: Literal["user"]
    content: TextContent
    name: Annotated[str, Field(pattern=NAME)] | None = None


class CalledFunction(Wire):
    """The function of a tool call. `arguments` is JSON text as the model wrote it, valid or not."""

    name: Annotated[str, Field(pattern=NAME)]
    arguments: Text


class ToolCallMessage(Wire):
    """A tool call of an earlier answer."""

    id: Annotated[str, Field(min_length=1, max_length=256, pattern=NUL_FREE)]
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Dropped = None


class AssistantMessage(Wire):
    """An earlier answer, which may be sent back as it came. Fields that a prompt does not need are ignored."""

    role: Literal["assistant"]
    content: AssistantContent | None = None
    refusal: Text | None = None
    name: Annotated[str, Field(pattern=NAME)] | None = None
    tool_calls: Annotated[list[ToolCallMessage], Field(max_length=128)] | None = None
    function_call: None = None
    audio: None = None
    annotations: Dropped = None
    reasoning: Dropped = None
    reasoning_content: Dropped = None


class ToolMessage(Wire):
    """The result of a tool call of the preceding assistant message."""

    role: Literal["tool"]
    content: TextContent
    tool_call_id: Annotated[str, Field(min_length=1, max_length=256, pattern=NUL_FREE)]
    name: Annotated[str, Field(pattern=NAME)] | None = None


Message = Annotated[
    Annotated[SystemMessage, Tag("=system")]
    | Annotated[DeveloperMessage, Tag("=developer")]
    | Annotated[UserMessage, Tag("=user")]
    | Annotated[AssistantMessage, Tag("=assistant")]
    | Annotated[ToolMessage, Tag("=tool")],
    one_of("role", "system", "developer", "user", "assistant", "tool"),
]


class FunctionDefinition(Wire):
    """A function the model may call. `parameters`: a JSON schema within the bounds of serving/api/schema_limits.py."""

    name: Annotated[str, Field(pattern=NAME)]
    description: Text | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class FunctionTool(Wire):
    """A tool. Only functions are supported."""

    type: Literal["function"]
    function: FunctionDefinition


class NamedFunction(Wire):
    """The function to call."""

    name: Annotated[str, Field(pattern=NAME)]


class NamedToolChoice(Wire):
    """Call exactly this tool."""

    type: Literal["function"]
    function: NamedFunction


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("=text")] | Annotated[NamedToolChoice, Tag("=other")],
    text_or(dict, "an object"),
]


class TextFormat(Wire):
    """Free text, the default."""

    type: Literal["text"]


class JsonObjectFormat(Wire):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(Wire):
    """A named JSON schema within the bounds of serving/api/schema_limits.py."""

    model_config = ConfigDict(protected_namespaces=())

    name: Annotated[str, Field(pattern=NAME)]
    description: Text | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class JsonSchemaFormat(Wire):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat = Annotated[
    Annotated[TextFormat, Tag("=text")]
    | Annotated[JsonObjectFormat, Tag("=json_object")]
    | Annotated[JsonSchemaFormat, Tag("=json_schema")],
    one_of("type", "text", "json_object", "json_schema"),
]


class StreamOptions(Wire):
    """What a stream carries besides the text."""

    include_usage: bool | None = None
    include_obfuscation: Dropped = None


def check_conversation(messages: list[Message]) -> None:
    """Check the rules between messages: answers are not empty, tool results follow the calls that they answer.

    The frontier refuses other conversations. Refusing them here gives both tiers the same contract.
    Raises InvalidRequest with the dotted path of the first message that breaks a rule.
    """
    open_calls: dict[str, str] = {}  # id of a tool call that still needs its result -> path of the call
    for i, message in enumerate(messages):
        path = f"messages[{i}]"
        if isinstance(message, ToolMessage):
            if open_calls.pop(message.tool_call_id, None) is None:
                raise InvalidRequest(
                    "A message with role 'tool' must answer one tool call of the assistant message before it, once.",
                    param=f"{path}.tool_call_id",
                )
            continue
        _refuse_open(open_calls)
        if isinstance(message, AssistantMessage):
            open_calls = _check_answer(message, path)
    _refuse_open(open_calls)


def _refuse_open(open_calls: dict[str, str]) -> None:
    for path in open_calls.values():
        raise InvalidRequest(
            "An assistant message with 'tool_calls' must be followed by one tool message for each of its calls.",
            param=path,
        )


def _check_answer(message: AssistantMessage, path: str) -> dict[str, str]:
    calls = message.tool_calls or []
    if message.content is None and not calls and message.refusal is None:
        raise InvalidRequest(
            "An assistant message needs 'content' unless it has 'tool_calls'.", param=f"{path}.content"
        )
    open_calls: dict[str, str] = {}
    for j, call in enumerate(calls):
        if call.id in open_calls:
            raise InvalidRequest("Two tool calls share one id.", param=f"{path}.tool_calls[{j}].id")
        open_calls[call.id] = f"{path}.tool_calls[{j}].id"
        check_arguments(call.function.arguments, f"{path}.tool_calls[{j}].function.arguments")
    return open_calls


def check_arguments(text: str, path: str) -> None:
    """Check JSON inside a JSON string, which is parsed again when the prompt is rendered, against the same bounds.

    Text that is not JSON is the model's own mistake and is accepted, so that the conversation can go on.
    Raises InvalidRequest.
    """
    try:
        check_shape(text.encode())
        refuse_surrogates(json.loads(text))
    except json.JSONDecodeError:
        return
    except (InvalidRequest, ValueError) as error:  # ValueError: an integer of thousands of digits
        raise InvalidRequest(f"The arguments of a tool call are out of bounds: {error}", param=path) from error
