"""Collects the pieces of one try into frames for the client, and knows the usage so far at any moment."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from routing.records import Api, ToolCall, Usage
from serving.hosted.legacy_completions import text_choice, text_chunk
from serving.hosted.providers.provider import Chunk, Counts, Piece
from serving.request.call import Call
from serving.request.frame import Frame

BYTES_PER_TOKEN = 4  # OpenAI's rule of thumb for English. It makes about one token of a 3-byte CJK character.
CHUNK_OBJECT = "chat.completion.chunk"


def estimate_tokens(text: str) -> int:
    """Tokens of a text that nobody counted, rounded up. Used only for usage that is marked estimated."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


@dataclass(slots=True)
class _Choice:
    """One choice so far. extra: fields of the deltas that are merged but not understood here."""

    text: list[str] = field(default_factory=list)
    tools: dict[int, dict[str, Any]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    finish_reason: str | None = None

    def add(self, choice: Mapping[str, Any]) -> None:
        """Take one chunk's part of this choice."""
        delta = choice.get("delta") or {}
        for name, value in delta.items():
            if name == "content" and isinstance(value, str):
                self.text.append(value)
            elif name == "tool_calls":
                for position, part in enumerate(value or ()):
                    self._add_tool(part.get("index", position), part)
            elif name != "role" and value is not None:
                known = self.extra.get(name)
                self.extra[name] = known + value if isinstance(known, str) and isinstance(value, str) else value
        for name, tokens in (choice.get("logprobs") or {}).items():
            self.logprobs.setdefault(name, []).extend(tokens or ())
        self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def _add_tool(self, index: int, part: Mapping[str, Any]) -> None:
        function = part.get("function") or {}
        tool = self.tools.setdefault(index, {"id": None, "name": "", "arguments": ""})
        tool["id"] = part.get("id") or tool["id"]
        tool["name"] = function.get("name") or tool["name"]
        tool["arguments"] += function.get("arguments") or ""

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(ToolCall(name=t["name"], arguments=t["arguments"]) for _, t in sorted(self.tools.items()))

    @property
    def written(self) -> str:
        """Everything the model wrote, for counting."""
        tools = (tool["name"] + tool["arguments"] for tool in self.tools.values())
        return "".join((*self.text, *tools, *(v for v in self.extra.values() if isinstance(v, str))))

    def message(self) -> dict[str, Any]:
        """The assistant message of a body that is not streamed."""
        content = "".join(self.text) or (None if self.tools else "")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if self.tools:
            message["tool_calls"] = [
                {"id": t["id"], "type": "function", "function": {"name": t["name"], "arguments": t["arguments"]}}
                for _, t in sorted(self.tools.items())
            ]
        return {**message, **self.extra}


class Answer:
    """One try's answer.

    Chunks wait here until the first content. A provider that fails before it can be replaced unseen.
    Providers are always asked to stream. For a client that does not stream, the chunks become one body at the end.
    So a silent provider is noticed as early on both paths, and a cut answer can be replaced.
    """

    def __init__(self, call: Call, model: str, count_tokens: Callable[[str], int] = estimate_tokens) -> None:
        self._call, self.model, self._count_tokens = call, model, count_tokens
        self._choices: dict[int, _Choice] = {}
        self._counts = Counts()
        self._waiting: list[Frame] = []
        self._head: dict[str, Any] = {}
        self._said_done = False
        self.first_content: float | None = None
        self.last_content: float | None = None

    def take(self, piece: Piece) -> list[Frame]:
        """Add a piece. Returns the frames that may be sent now, [] while none may."""
        self._said_done |= piece.done
        if piece.counts is not None:
            self._counts = _merge(self._counts, piece.counts)
        if piece.chunk is None or not piece.chunk.get("choices"):
            return []
        chunk = self._identify(piece.chunk)
        for choice in chunk["choices"]:
            self._choices.setdefault(choice.get("index", 0), _Choice()).add(choice)
        if has_content(chunk):
            self.last_content = time.perf_counter()
            self.first_content = self.first_content or self.last_content
        if not self._call.stream:
            return []
        self._waiting.extend(self._frames(chunk))
        if self.first_content is None:
            return []
        ready, self._waiting = self._waiting, []
        return ready

    @property
    def complete(self) -> bool:
        """Whether every choice was finished. A stream that ends before that was cut."""
        finished = sum(choice.finish_reason is not None for choice in self._choices.values())
        return (
            finished > 0
            and finished == len(self._choices)
            and (self._said_done or finished >= self._call.features.n_choices)
        )

    def usage(self) -> Usage:
        """The usage so far: the provider's counts, or ours (estimated) where it gave none."""
        counts = self._counts
        estimated = counts.input_tokens is None or counts.output_tokens is None
        input_tokens = self._call.features.input_tokens if counts.input_tokens is None else counts.input_tokens
        output_tokens = counts.output_tokens
        if output_tokens is None:
            output_tokens = sum(self._count_tokens(choice.written) for choice in self._choices.values())
        cached = None if counts.cached_tokens is None else min(counts.cached_tokens, input_tokens)
        written = counts.cache_write_tokens
        return Usage(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cached_tokens=cached,
            cache_write_tokens=None if written is None else min(written, input_tokens - (cached or 0)),
            estimated=estimated,
        )

    def last_frame(self) -> Frame:
        """The usage-only chunk of a stream, or the whole body with everything in one frame."""
        usage = self.usage()
        wire = usage_object(usage, self._counts.wire)
        if self._call.stream:
            return Frame(data=_json({**self._head, "choices": [], "usage": wire}), usage=usage, model=self.model)
        choice = self._choices.get(0, _Choice())
        return Frame(
            data=_json(self._body(wire)),
            text="".join(choice.text),
            finish_reason=choice.finish_reason,
            tool_calls=choice.tool_calls,
            usage=usage,
            model=self.model,
        )

    def _identify(self, chunk: Chunk) -> Chunk:
        """One id, time and model for the whole answer, even where a provider changes them midway."""
        if not self._head:
            self.model = chunk.get("model") or self.model
            born = {"id": f"chatcmpl-{self._call.request_id}", "object": CHUNK_OBJECT, "created": int(time.time())}
            self._head = {**born, **{k: v for k, v in chunk.items() if k != "choices"}, "model": self.model}
            if self._call.api is Api.COMPLETIONS:
                self._head["object"] = "text_completion"
        return {**chunk, "id": self._head["id"], "created": self._head["created"], "model": self.model}

    def _frames(self, chunk: Chunk) -> Iterator[Frame]:
        """The chunk as the client gets it, on the frame of its first choice. Further frames carry evidence only."""
        data: str | None = _json(text_chunk(chunk) if self._call.api is Api.COMPLETIONS else chunk)
        for choice in chunk["choices"]:
            index = choice.get("index", 0)
            tokens = (choice.get("logprobs") or {}).get("content") or ()
            finish_reason = choice.get("finish_reason")
            yield Frame(
                data=data,
                choice=index,
                text=(choice.get("delta") or {}).get("content") or "",
                logprobs=tuple(token["logprob"] for token in tokens),
                finish_reason=finish_reason,
                tool_calls=self._choices[index].tool_calls if finish_reason is not None else (),
                model=self.model,
            )
            data = None

    def _body(self, wire: Mapping[str, Any]) -> dict[str, Any]:
        choices = []
        for index, choice in sorted(self._choices.items()):
            whole = {"index": index, "finish_reason": choice.finish_reason, "logprobs": choice.logprobs or None}
            message = choice.message()
            if self._call.api is Api.COMPLETIONS:
                choices.append(text_choice(whole, message))
            else:
                choices.append({**whole, "message": message})
        kind = "text_completion" if self._call.api is Api.COMPLETIONS else "chat.completion"
        return {**self._head, "object": kind, "choices": choices, "usage": wire}


def has_content(chunk: Chunk) -> bool:
    """Whether a chunk says anything: text, reasoning, a tool call or the end of a choice. A bare role does not."""
    return any(
        choice.get("finish_reason")
        or any(value for name, value in (choice.get("delta") or {}).items() if name != "role")
        for choice in chunk.get("choices", ())
    )


def usage_object(usage: Usage, provided: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Usage in OpenAI's shape. The provider's own object where it gave a complete one."""
    if provided is not None and not usage.estimated:
        return dict(provided)
    wire: dict[str, Any] = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    if usage.cached_tokens is not None:
        wire["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    return wire


def _merge(known: Counts, new: Counts) -> Counts:
    """Merge running totals. A later value replaces an earlier one, and a missing value changes nothing."""
    said = {name: getattr(new, name) for name in new.__slots__ if getattr(new, name) is not None}
    return replace(known, **said)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
