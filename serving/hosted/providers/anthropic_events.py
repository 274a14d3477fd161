"""Translates Anthropic's stream events into OpenAI chunks, one event at a time."""

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from serving.hosted.providers.provider import Chunk, Counts, Piece, count

FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}


class AnthropicEvents:
    """The state of one stream. Unknown events and pings give an empty piece."""

    def __init__(self, model: str) -> None:
        self._head: dict[str, Any] = {
            "id": None,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._tools: dict[int, int] = {}  # content block index -> tool call index
        self._silent_tools: set[int] = set()  # blocks whose arguments have not begun
        self._counts: dict[str, int | None] = {}

    def pieces(self, event: Mapping[str, Any]) -> Iterator[Piece]:
        """What one event means. Raises KeyError, TypeError or AttributeError when it is not one of Anthropic's."""
        match event.get("type"):
            case "message_start":
                message = event["message"]
                self._head |= {"id": message["id"], "model": message.get("model") or self._head["model"]}
                usage = message.get("usage") or {}
                self._see(usage, ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"))
                yield Piece(chunk=self._chunk({"role": "assistant", "content": ""}), counts=self._totals())
            case "content_block_start":
                yield from self._block_starts(event["index"], event["content_block"])
            case "content_block_delta":
                yield from self._block_grows(event["index"], event["delta"])
            case "content_block_stop" if event["index"] in self._silent_tools:
                yield self._arguments(event["index"], "{}")
            case "message_delta":
                self._see(event.get("usage") or {}, tuple(COUNTED))
                reason = FINISH_REASONS.get(event["delta"].get("stop_reason") or "", "stop")
                yield Piece(chunk=self._chunk({}, reason), counts=self._totals())
            case "message_stop":
                yield Piece(done=True)
            case _:
                yield Piece()

    def _block_starts(self, index: int, block: Mapping[str, Any]) -> Iterator[Piece]:
        if block["type"] == "tool_use":
            self._tools[index] = len(self._tools)
            self._silent_tools.add(index)
            function = {"name": block["name"], "arguments": ""}
            yield self._tool_piece(index, {"id": block["id"], "type": "function", "function": function})
            if block.get("input"):
                yield self._arguments(index, json.dumps(block["input"], ensure_ascii=False))
        elif block["type"] == "text" and block.get("text"):
            yield Piece(chunk=self._chunk({"content": block["text"]}))

    def _block_grows(self, index: int, delta: Mapping[str, Any]) -> Iterator[Piece]:
        match delta["type"]:
            case "text_delta":
                yield Piece(chunk=self._chunk({"content": delta["text"]}))
            case "input_json_delta" if delta["partial_json"]:
                yield self._arguments(index, delta["partial_json"])
            case "thinking_delta":
                yield Piece(chunk=self._chunk({"reasoning_content": delta["thinking"]}))
            case _:
                yield Piece()

    def _arguments(self, index: int, text: str) -> Piece:
        self._silent_tools.discard(index)
        return self._tool_piece(index, {"function": {"arguments": text}})

    def _tool_piece(self, index: int, call: Mapping[str, Any]) -> Piece:
        return Piece(chunk=self._chunk({"tool_calls": [{"index": self._tools[index], **call}]}))

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> Chunk:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._head, "choices": [choice]}

    def _see(self, usage: Mapping[str, Any], names: tuple[str, ...]) -> None:
        for name in names:
            self._counts[name] = self._counts.get(name) if count(usage.get(name)) is None else count(usage[name])

    def _totals(self) -> Counts:
        """Anthropic's input_tokens leaves out what was read from and written to the cache. Ours includes both."""
        plain = self._counts.get("input_tokens")
        cached, written = self._counts.get("cache_read_input_tokens"), self._counts.get("cache_creation_input_tokens")
        return Counts(
            input_tokens=None if plain is None else plain + (cached or 0) + (written or 0),
            output_tokens=self._counts.get("output_tokens"),
            cached_tokens=cached,
            cache_write_tokens=written,
        )


COUNTED = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens")
