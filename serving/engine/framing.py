"""Turns an engine's steps into frames: data for the client, with or after the evidence for the gate."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from routing.records import ToolCall, Usage
from serving.request.frame import Frame


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one engine step added to one choice.

    text: as generated, without stop strings and special tokens. Tool-call markup is still in it.
    logprobs: natural-log probability of each new token under the plain model (before temperature, penalties and
        grammar), shape (n_tokens,).
    """

    choice: int
    text: str
    logprobs: tuple[float, ...]
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an answer.

    data: a chunk's JSON text or, last and once, that of the whole body. None: evidence only.
    """

    data: str | None
    evidence: tuple[Evidence, ...]


@dataclass(slots=True)
class Framer:
    """Turns the engine's steps into frames. Each request has its own. Evidence comes with or before its data."""

    model: str
    replica_id: str
    tool_calls: dict[int, dict[int, dict[str, str]]] = field(default_factory=dict)

    def frames(self, step: Step, engine_s: float) -> list[Frame]:
        """The frames of one step, in order. engine_s: the request's share of busy seconds so far."""
        common: dict[str, Any] = {"engine_s": engine_s, "replica_id": self.replica_id, "model": self.model}
        news = merge_by_choice(step.evidence)
        if step.data is None:
            return [Frame(choice=c, **seen, **common) for c, seen in news.items()]
        body = json.loads(step.data)
        choices = body.get("choices", [])
        finished = [self._finish(choice) for choice in choices]
        usage = usage_of(body.get("usage"))
        carrier = choices[-1]["index"] if choices else 0  # the choice whose news travel with the data
        frames = [Frame(choice=c, **seen, **common) for c, seen in news.items() if c != carrier]
        for choice, ending in zip(choices[:-1], finished[:-1], strict=True):
            frames.append(Frame(choice=choice["index"], **ending, **common))
        ending = finished[-1] if finished else {}
        frames.append(Frame(data=step.data, choice=carrier, usage=usage, **news.get(carrier, {}), **ending, **common))
        return frames

    def _finish(self, choice: dict[str, Any]) -> dict[str, Any]:
        """finish_reason and the complete tool calls when this chunk or body finishes the choice, else nothing."""
        calls = self.tool_calls.setdefault(choice["index"], {})
        message = choice.get("delta") or choice.get("message") or {}
        for position, call in enumerate(message.get("tool_calls") or ()):
            whole = calls.setdefault(call.get("index", position), {"name": "", "arguments": ""})
            function = call.get("function") or {}
            whole["name"] += function.get("name") or ""
            whole["arguments"] += function.get("arguments") or ""
        if choice.get("finish_reason") is None:
            return {}
        return {
            "finish_reason": choice["finish_reason"],
            "tool_calls": tuple(ToolCall(**calls[index]) for index in sorted(calls)),
        }


def merge_by_choice(evidence: tuple[Evidence, ...]) -> dict[int, dict[str, Any]]:
    """The evidence of each choice as one: text joined, logprobs in order, counts added. Keys are Frame's."""
    merged: dict[int, dict[str, Any]] = {}
    for item in evidence:
        seen = merged.setdefault(item.choice, {"text": "", "logprobs": (), "n_tokens": 0})
        seen["text"] += item.text
        seen["logprobs"] += item.logprobs
        seen["n_tokens"] += item.n_tokens
    return merged


def usage_of(usage: Mapping[str, Any] | None) -> Usage | None:
    """OpenAI's usage object as ours. cached_tokens is None when the engine did not report it."""
    if usage is None:
        return None
    details = usage.get("prompt_tokens_details") or {}
    return Usage(
        input_tokens=usage["prompt_tokens"],
        output_tokens=usage.get("completion_tokens") or 0,
        cached_tokens=details.get("cached_tokens"),
    )
