"""Request and response pairs in OpenAI's format, one JSON object a line.

The request is under `request` or `body`, the response under `response` (also as the batch API writes it, with
status_code and body). `timestamp`, `tenant`, `category`, `provider` and `status` beside them are read when present.
Usage of the chat, the responses and Anthropic's messages API is understood. Calls of a service tier other than default
and batch (flex, priority) are of unknown price.
"""

from typing import Annotated

import msgspec

from serving.audit.formats.call import BYTES_PER_TOKEN, NO_TENANT, BadRow, Call, LoggedRequest, seconds

Tokens = Annotated[int, msgspec.Meta(ge=0)]
NOTHING = msgspec.Raw(b"")
PRICED_TIERS = (None, "auto", "default", "standard", "batch")


class Details(msgspec.Struct, gc=False):
    """Parts of the input tokens."""

    cached_tokens: Tokens | None = None


class LoggedUsage(msgspec.Struct, gc=False):
    """The usage objects of three APIs in one, because their fields do not collide."""

    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    prompt_tokens_details: Details | None = None
    input_tokens_details: Details | None = None
    cache_read_input_tokens: Tokens | None = None
    cache_creation_input_tokens: Tokens | None = None


class Metadata(msgspec.Struct, gc=False):
    """What clients say about a request."""

    category: str | None = None
    tenant: str | None = None


class RequestBody(msgspec.Struct, gc=False):
    """A request whose texts stay JSON."""

    model: str | None = None
    messages: msgspec.Raw = NOTHING
    prompt: msgspec.Raw = NOTHING
    input: msgspec.Raw = NOTHING
    system: msgspec.Raw = NOTHING
    tools: msgspec.Raw = NOTHING
    response_format: msgspec.Raw = NOTHING
    user: str | None = None
    metadata: Metadata | None = None


class ResponseBody(msgspec.Struct, gc=False):
    """A response, or the batch API's envelope around one."""

    model: str | None = None
    created: float | None = None
    usage: LoggedUsage | None = None
    choices: msgspec.Raw = NOTHING
    output: msgspec.Raw = NOTHING
    content: msgspec.Raw = NOTHING
    error: msgspec.Raw = NOTHING
    service_tier: str | None = None
    status_code: int | None = None
    body: "ResponseBody | None" = None


class Line(msgspec.Struct, gc=False):
    """One line of the log."""

    request: RequestBody | None = None
    body: RequestBody | None = None
    response: ResponseBody | None = None
    timestamp: float | str | None = None
    created_at: float | str | None = None
    tenant: str | None = None
    category: str | None = None
    provider: str | None = None
    status: int | None = None
    custom_id: str | None = None


_decode = msgspec.json.Decoder(Line).decode
_EMPTY = RequestBody()


def read_line(line: bytes) -> tuple[Call]:
    """The call of one line. Raises BadRow, msgspec.DecodeError."""
    row = _decode(line)
    request, response = row.request or row.body or _EMPTY, row.response
    batch = False
    status = row.status
    if response is not None and response.body is not None:
        batch = row.custom_id is not None
        status = response.status_code if status is None else status
        response = response.body
    if response is None:
        if row.request is None and row.body is None:
            raise BadRow("request", "neither a request nor a response in this line")
        raise BadRow("response", "no response: what the call used is not known")
    model = response.model or request.model
    if model is None:
        raise BadRow("response.model", "no model in response or request")
    if row.timestamp is not None:
        at_s = seconds(row.timestamp, "timestamp")
    elif row.created_at is not None:
        at_s = seconds(row.created_at, "created_at")
    else:
        at_s = seconds(response.created, "response.created")
    metadata = request.metadata
    text = request.messages or request.prompt or request.input
    call = Call(
        model,
        0,
        0,
        at_s,
        row.provider,
        row.tenant or (metadata.tenant if metadata else None) or request.user or NO_TENANT,
        row.category or (metadata.category if metadata else None),
        batch=batch or response.service_tier == "batch",
        unpriced=response.service_tier not in PRICED_TIERS,
        # Templates put tools and system prompts first. So do we, or different tools would seem to share a prefix.
        prompt=b"".join((request.tools, request.system, text)),
        request=LoggedRequest(request.messages or request.input, request.prompt, request.tools, request.response_format)
        if text
        else None,
    )
    if (status is not None and status >= 400) or (response.error and response.error != b"null"):
        call.failed = True
    elif response.usage is not None:
        _take_usage(call, response.usage)
    else:
        answer = response.choices or response.output or response.content
        if not text or not answer:
            raise BadRow("response.usage", "no usage, and no text of prompt and answer to estimate it from")
        call.estimated = True
        call.input_tokens = len(call.prompt) // BYTES_PER_TOKEN
        call.output_tokens = len(answer) // BYTES_PER_TOKEN
    return (call,)


def _take_usage(call: Call, usage: LoggedUsage) -> None:
    if usage.prompt_tokens is not None:
        call.input_tokens, call.output_tokens = usage.prompt_tokens, usage.completion_tokens or 0
        details = usage.prompt_tokens_details
    elif usage.input_tokens is not None:
        call.input_tokens, call.output_tokens = usage.input_tokens, usage.output_tokens or 0
        details = usage.input_tokens_details
    else:
        raise BadRow("response.usage", "neither prompt_tokens nor input_tokens")
    if details is not None and details.cached_tokens is not None:
        call.cached_tokens = details.cached_tokens
        if call.cached_tokens > call.input_tokens:
            raise BadRow("response.usage", f"{call.cached_tokens} cached of {call.input_tokens} input tokens")
    elif usage.cache_read_input_tokens is not None or usage.cache_creation_input_tokens is not None:
        # Anthropic counts the three kinds apart.
        call.cached_tokens = usage.cache_read_input_tokens or 0
        call.cache_write_tokens = usage.cache_creation_input_tokens or 0
        call.input_tokens += call.cached_tokens + call.cache_write_tokens
