"""Scripts for the scripted upstream: how one request is answered, and what goes wrong on the way."""

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any


class Fault(Enum):
    """What goes wrong, after `Script.fault_after` output tokens have been sent."""

    NONE = "none"
    RESET = "reset"  # TCP RST
    SILENCE = "silence"  # nothing more, not even headers when fault_after is 0; ends when the client leaves
    STALL = "stall"  # headers and the tokens so far, then nothing; `until` (an event) lets it go on
    CUT = "cut"  # the connection ends without the terminating chunk
    CLEAN_CUT = "clean_cut"  # the HTTP body ends properly, but without finish_reason and [DONE]
    HANG = "hang"  # everything is said, the finish reason too, then neither [DONE] nor the end; fault_after is not used
    ERROR_EVENT = "error_event"  # an error inside the stream (Anthropic: overloaded_error)


class UsageStyle(Enum):
    """How a stream reports usage. A body that is not streamed always has it, unless MISSING."""

    LAST = "last"  # OpenAI's own: a last chunk with empty choices, when the client asked for it
    WITH_CHOICES = "with_choices"  # on the finishing chunk, next to its choices
    REPEATED = "repeated"  # running totals on every chunk, and the final one twice
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """One tool call the script answers with; arguments is JSON text."""

    name: str
    arguments: str = "{}"
    id: str = "call_0"


@dataclass(frozen=True, slots=True)
class Script:
    """How one request is answered. One word with its trailing space is one token of this provider.

    input_tokens: what the provider counts for the prompt; None: its words.
    cached_tokens, cache_write_tokens: parts of input_tokens served from and written to the provider's prompt cache.
    ping_every_s: while the first token is awaited, a ping (OpenAI: a chunk without choices) this often.
    delay_s: before the headers. first_token_delay_s: between headers and first token. token_delay_s: per token.
    """

    text: str = ""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    error_body: Any = None
    tool_calls: tuple[ToolUse, ...] = ()
    finish_reason: str = "stop"
    input_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    usage: UsageStyle = UsageStyle.LAST
    model: str | None = None
    delay_s: float = 0.0
    first_token_delay_s: float = 0.0
    ping_every_s: float | None = None
    token_delay_s: float = 0.0
    fault: Fault = Fault.NONE
    fault_after: int = 0
    until: asyncio.Event | None = None
    malformed_at: int | None = None
    empty_choices_at: int | None = None
    pings: bool = True
    done: bool = True

    @property
    def tokens(self) -> list[str]:
        """The text in tokens; joined they give it back."""
        return re.findall(r"\S+\s*|\s+", self.text)


def ok(text: str = "hello", **options: Any) -> Script:
    """A good answer. Options are the fields of Script (usage=…, cached_tokens=…, token_delay_s=…, model=…)."""
    return Script(text=text, **options)


def tool_call(name: str, arguments: Mapping[str, Any] | str, call_id: str = "call_0", **options: Any) -> Script:
    """An answer that is one tool call."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return tool_calls(ToolUse(name, text, call_id), **options)


def tool_calls(*calls: ToolUse, text: str = "", **options: Any) -> Script:
    """An answer with several parallel tool calls."""
    return Script(text=text, tool_calls=calls, finish_reason="tool_calls", **options)


def error(
    status: int, message: str = "scripted error", *, retry_after_s: float | None = None, **options: Any
) -> Script:
    """An HTTP error before any token. code=, type= and param= go into the body; headers= beside Retry-After."""
    headers = dict(options.pop("headers", {}))
    if retry_after_s is not None:
        headers["retry-after"] = f"{retry_after_s:g}"
    body = {"message": message, "type": "api_error", "param": None, "code": None}
    body |= {key: options.pop(key) for key in ("type", "param", "code") if key in options}
    return Script(status=status, headers=headers, error_body=body, **options)


def content_filter_400() -> Script:
    """The provider refuses the prompt itself."""
    return error(400, "The response was filtered", type="invalid_request_error", code="content_filter", param="prompt")


def content_filter_200(text: str = "") -> Script:
    """The provider stops its own answer; finish_reason content_filter (Anthropic: stop_reason refusal)."""
    return Script(text=text, finish_reason="content_filter")


def reset(text: str = "", after: int = 0) -> Script:
    """TCP reset, before anything (after=0) or after so many tokens."""
    return Script(text=text, fault=Fault.RESET, fault_after=after)


def silence() -> Script:
    """Takes the request and never says anything."""
    return Script(fault=Fault.SILENCE)


def slow_first_token(delay_s: float, text: str = "hello", **options: Any) -> Script:
    """Headers at once, the first token late."""
    return Script(text=text, first_token_delay_s=delay_s, **options)


def cut(text: str, after: int, *, clean: bool = False) -> Script:
    """A stream that ends after so many tokens: the connection drops, or (clean) the body simply ends."""
    return Script(text=text, fault=Fault.CLEAN_CUT if clean else Fault.CUT, fault_after=after)


def stall(text: str, after: int, until: asyncio.Event | None = None) -> Script:
    """A stream that stops after so many tokens, until the event is set or the client leaves."""
    return Script(text=text, fault=Fault.STALL, fault_after=after, until=until)


def hang(text: str = "hello", **options: Any) -> Script:
    """A stream that is complete but for its goodbye, and never ends."""
    return Script(text=text, fault=Fault.HANG, done=False, **options)


def overloaded(text: str = "", after: int = 0) -> Script:
    """An error event inside a stream that began with 200."""
    return Script(text=text, fault=Fault.ERROR_EVENT, fault_after=after)


def malformed_chunk(text: str = "one two three", at: int = 1) -> Script:
    """A line that is no JSON before token number `at`."""
    return Script(text=text, malformed_at=at)


def no_done(text: str = "hello") -> Script:
    """A complete stream whose last line is missing: no [DONE], no message_stop."""
    return Script(text=text, done=False)


def empty_choices(text: str = "one two three", at: int = 0) -> Script:
    """A chunk with an empty `choices` list before token number `at`."""
    return Script(text=text, empty_choices_at=at)


def variant(script: Script, **changes: Any) -> Script:
    """The same script with some fields changed."""
    return replace(script, **changes)
