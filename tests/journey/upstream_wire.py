"""What the scripted upstream puts on the wire: one script in OpenAI's and in Anthropic's format, and its own books."""

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.journey.upstream_scripts import Script, UsageStyle

WAIT_S = 5.0


class Bell:
    """Wakes waiters whenever the books change; each then looks at what it waits for."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        self._rung.set()

    async def until(self, seen: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
        """Wait until `seen()`. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s):
            while not seen():
                self._rung.clear()
                await self._rung.wait()


@dataclass(eq=False, slots=True)
class Exchange:
    """One request as the provider saw it, and what it cost by the provider's own books."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    script: Script
    received: float = field(default_factory=time.perf_counter)
    billed_input_tokens: int = 0
    billed_output_tokens: int = 0
    bell: Bell = field(default_factory=Bell, repr=False)
    left_at: float | None = None
    left: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def streamed(self) -> bool:
        """Whether the client asked for a stream."""
        return bool(self.body.get("stream"))

    async def client_left(self, timeout_s: float = WAIT_S) -> float:
        """Wait until the client hung up before the answer was complete; the time.perf_counter() of it."""
        await asyncio.wait_for(self.left.wait(), timeout_s)
        assert self.left_at is not None
        return self.left_at

    async def sent(self, tokens: int, timeout_s: float = WAIT_S) -> None:
        """Wait until so many output tokens have been written."""
        await self.bell.until(lambda: self.billed_output_tokens >= tokens, timeout_s)


class Dialect(ABC):
    """How one provider's wire format says a script. Every method gives SSE events without the blank line."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange, self.script, self.body = exchange, exchange.script, exchange.body
        self.model = exchange.script.model or exchange.body.get("model", "scripted")
        self.id = f"scripted-{id(exchange):x}"

    @property
    def input_tokens(self) -> int:
        """The prompt in this provider's tokens."""
        if self.script.input_tokens is not None:
            return self.script.input_tokens
        return len(json.dumps([self.body.get("system"), self.body.get("messages")]).split())

    @property
    def output_tokens(self) -> int:
        """The whole answer in this provider's tokens: its words, and one for each tool call."""
        return (len(self.script.tokens) + len(self.script.tool_calls)) * self.n_choices

    @property
    def n_choices(self) -> int:
        return self.body.get("n") or 1

    def bill_whole(self) -> None:
        self.exchange.billed_input_tokens = self.input_tokens
        self.exchange.billed_output_tokens = self.output_tokens

    @abstractmethod
    def error(self, body: Any) -> Any: ...

    @abstractmethod
    def whole(self) -> Any: ...

    @abstractmethod
    def opening(self) -> Iterator[str]: ...

    @abstractmethod
    def steps(self) -> Iterator[list[str]]: ...

    @abstractmethod
    def closing(self) -> Iterator[str]: ...

    @abstractmethod
    def empty(self) -> list[str]: ...

    @abstractmethod
    def error_event(self) -> list[str]: ...


class OpenAIDialect(Dialect):
    """Chat completions."""

    def usage(self, output_tokens: int) -> dict[str, Any]:
        usage: dict[str, Any] = {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": output_tokens,
            "total_tokens": self.input_tokens + output_tokens,
        }
        if self.script.cached_tokens is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": self.script.cached_tokens}
        return usage

    def chunk(self, choices: list[dict[str, Any]], output_tokens: int | None = None, *, repeat: bool = False) -> str:
        chunk: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": 1700000000,
            "model": self.model,
        }
        chunk["choices"] = choices
        if output_tokens is not None and (repeat or self.script.usage is UsageStyle.REPEATED):
            chunk["usage"] = self.usage(output_tokens)
        return "data: " + json.dumps(chunk)

    @staticmethod
    def choice(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}

    def error(self, body: Any) -> Any:
        return {"error": body}

    def whole(self) -> Any:
        self.bill_whole()
        message: dict[str, Any] = {"role": "assistant", "content": self.script.text or None, "refusal": None}
        if self.script.tool_calls:
            message["tool_calls"] = [
                {"id": t.id, "type": "function", "function": {"name": t.name, "arguments": t.arguments}}
                for t in self.script.tool_calls
            ]
        choice = {"message": message, "finish_reason": self.script.finish_reason, "logprobs": None}
        body = {
            "id": self.id,
            "object": "chat.completion",
            "created": 1700000000,
            "model": self.model,
            "choices": [{"index": index, **choice} for index in range(self.n_choices)],
            "system_fingerprint": "fp_scripted",
        }
        if self.script.usage is not UsageStyle.MISSING:
            body["usage"] = self.usage(self.output_tokens)
        return body

    def opening(self) -> Iterator[str]:
        for index in range(self.n_choices):
            yield self.chunk([self.choice(index, {"role": "assistant", "content": ""})], 0)

    def steps(self) -> Iterator[list[str]]:
        sent = 0
        for token in self.script.tokens:
            for index in range(self.n_choices):
                sent += 1
                yield [self.chunk([self.choice(index, {"content": token})], sent)]
        for position, tool in enumerate(self.script.tool_calls):
            for index in range(self.n_choices):
                sent += 1
                head = {
                    "index": position,
                    "id": tool.id,
                    "type": "function",
                    "function": {"name": tool.name, "arguments": ""},
                }
                half = len(tool.arguments) // 2
                rest = [
                    {"index": position, "function": {"arguments": part}}
                    for part in (tool.arguments[:half], tool.arguments[half:])
                ]
                yield [self.chunk([self.choice(index, {"tool_calls": [part]})], sent) for part in (head, *rest)]

    def closing(self) -> Iterator[str]:
        for index in range(self.n_choices):
            last = index == self.n_choices - 1
            finish = [self.choice(index, {}, self.script.finish_reason)]
            yield self.chunk(finish, self.output_tokens, repeat=last and self.script.usage is UsageStyle.WITH_CHOICES)
        asked = (self.body.get("stream_options") or {}).get("include_usage")
        if asked and self.script.usage in (UsageStyle.LAST, UsageStyle.REPEATED):
            yield self.chunk([], self.output_tokens, repeat=True)
        if self.script.done:
            yield "data: [DONE]"

    def empty(self) -> list[str]:
        return [self.chunk([])]

    def error_event(self) -> list[str]:
        return ['data: {"error": {"message": "scripted overload", "type": "server_error", "code": null}}']


STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}


class AnthropicDialect(Dialect):
    """Messages."""

    def event(self, kind: str, **data: Any) -> str:
        return f"event: {kind}\ndata: " + json.dumps({"type": kind, **data})

    def usage(self, output_tokens: int) -> dict[str, Any]:
        cached, written = self.script.cached_tokens or 0, self.script.cache_write_tokens or 0
        return {
            "input_tokens": self.input_tokens - cached - written,
            "cache_read_input_tokens": cached,
            "cache_creation_input_tokens": written,
            "output_tokens": output_tokens,
        }

    def message(self, content: list[dict[str, Any]], stop_reason: str | None, output_tokens: int) -> dict[str, Any]:
        message = {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": content,
            "stop_reason": stop_reason,
            "stop_sequence": None,
        }
        if self.script.usage is not UsageStyle.MISSING:
            message["usage"] = self.usage(output_tokens)
        return message

    def error(self, body: Any) -> Any:
        return {"type": "error", "error": {"type": body["type"], "message": body["message"]}}

    def whole(self) -> Any:
        self.bill_whole()
        content: list[dict[str, Any]] = [{"type": "text", "text": self.script.text}] if self.script.text else []
        content += [
            {"type": "tool_use", "id": t.id, "name": t.name, "input": json.loads(t.arguments)}
            for t in self.script.tool_calls
        ]
        return self.message(content, STOP_REASONS[self.script.finish_reason], self.output_tokens)

    def opening(self) -> Iterator[str]:
        yield self.event("message_start", message=self.message([], None, 1))
        if self.script.pings:
            yield self.event("ping")
        if self.script.tokens:
            yield self.event("content_block_start", index=0, content_block={"type": "text", "text": ""})

    def steps(self) -> Iterator[list[str]]:
        tokens = self.script.tokens
        for token in tokens:
            yield [self.event("content_block_delta", index=0, delta={"type": "text_delta", "text": token})]
        for position, tool in enumerate(self.script.tool_calls, start=1 if tokens else 0):
            half = len(tool.arguments) // 2
            block = {"type": "tool_use", "id": tool.id, "name": tool.name, "input": {}}
            yield [
                *([self.event("content_block_stop", index=0)] if tokens and position == 1 else []),
                self.event("content_block_start", index=position, content_block=block),
                *(
                    self.event(
                        "content_block_delta", index=position, delta={"type": "input_json_delta", "partial_json": part}
                    )
                    for part in (tool.arguments[:half], tool.arguments[half:])
                ),
                self.event("content_block_stop", index=position),
            ]

    def closing(self) -> Iterator[str]:
        if self.script.tokens and not self.script.tool_calls:
            yield self.event("content_block_stop", index=0)
        delta = {"stop_reason": STOP_REASONS[self.script.finish_reason], "stop_sequence": None}
        if self.script.usage is UsageStyle.MISSING:
            yield self.event("message_delta", delta=delta)
        else:
            yield self.event("message_delta", delta=delta, usage={"output_tokens": self.output_tokens})
        if self.script.done:
            yield self.event("message_stop")

    def empty(self) -> list[str]:
        return [self.event("ping")]

    def error_event(self) -> list[str]:
        return [self.event("error", error={"type": "overloaded_error", "message": "Overloaded"})]
