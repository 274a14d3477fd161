"""serving/hosted/providers/anthropic_events.py: Anthropic's events as OpenAI chunks."""

from typing import Any

import pytest

from serving.hosted.providers.anthropic_events import FINISH_REASONS, AnthropicEvents
from serving.hosted.providers.provider import Counts, Piece


def run(*events: dict[str, Any]) -> list[Piece]:
    state = AnthropicEvents("opus")
    return [piece for event in events for piece in state.pieces(event)]


def start(**usage: int) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": "msg_1", "model": "opus-2026", "usage": usage}}


def block(index: int, **content: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": content}


def grows(index: int, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def stops(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def ends(reason: str | None = "end_turn", **usage: int) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, **({"usage": usage} if usage else {})}


def deltas(pieces: list[Piece]) -> list[dict[str, Any]]:
    return [piece.chunk["choices"][0]["delta"] for piece in pieces if piece.chunk]


def test_text_arrives_under_one_id_and_the_serving_model() -> None:
    pieces = run(start(), block(0, type="text", text=""), grows(0, type="text_delta", text="hi"), stops(0), ends())
    assert deltas(pieces) == [{"role": "assistant", "content": ""}, {"content": "hi"}, {}]
    assert {(p.chunk["id"], p.chunk["model"]) for p in pieces if p.chunk} == {("msg_1", "opus-2026")}
    assert pieces[-1].chunk["choices"][0]["finish_reason"] == "stop"


def test_parallel_tool_calls_are_numbered_from_zero_whatever_their_block_index() -> None:
    pieces = run(
        start(),
        block(0, type="text", text="let me see"),
        block(1, type="tool_use", id="t1", name="f", input={}),
        grows(1, type="input_json_delta", partial_json=""),
        grows(1, type="input_json_delta", partial_json='{"a":'),
        grows(1, type="input_json_delta", partial_json="1}"),
        stops(1),
        block(2, type="tool_use", id="t2", name="g", input={}),
        stops(2),
        ends("tool_use"),
    )
    calls = [call for delta in deltas(pieces) for call in delta.get("tool_calls", ())]
    assert [call["index"] for call in calls] == [0, 0, 0, 1, 1]
    assert [call["id"] for call in calls if "id" in call] == ["t1", "t2"]
    arguments = ["".join(c["function"]["arguments"] for c in calls if c["index"] == index) for index in (0, 1)]
    assert arguments == ['{"a":1}', "{}"], "a call without arguments is {} at OpenAI, not empty"


@pytest.mark.parametrize(
    ("stop_reason", "finish_reason"), [*FINISH_REASONS.items(), ("something_new", "stop"), (None, "stop")]
)
def test_stop_reasons(stop_reason: str | None, finish_reason: str) -> None:
    """A refusal is a content_filter."""
    assert run(start(), ends(stop_reason))[-1].chunk["choices"][0]["finish_reason"] == finish_reason


def test_cached_and_written_tokens_become_parts_of_the_input() -> None:
    pieces = run(
        start(input_tokens=10, cache_read_input_tokens=100, cache_creation_input_tokens=20, output_tokens=1),
        ends(output_tokens=7),
    )
    assert pieces[-1].counts == Counts(input_tokens=130, output_tokens=7, cached_tokens=100, cache_write_tokens=20)


def test_the_first_events_output_count_is_a_placeholder() -> None:
    assert run(start(input_tokens=10, output_tokens=1))[-1].counts == Counts(input_tokens=10)


def test_later_counts_replace_earlier_ones() -> None:
    assert run(start(input_tokens=10), ends(input_tokens=12, output_tokens=3))[-1].counts == Counts(12, 3)


def test_usage_may_be_missing_everywhere() -> None:
    """message_stop without usage."""
    pieces = run({"type": "message_start", "message": {"id": "m"}}, ends(), {"type": "message_stop"})
    assert [p.counts for p in pieces] == [Counts(), Counts(), None]
    assert pieces[-1].done


def test_pings_and_unknown_events_are_only_signs_of_life() -> None:
    assert run({"type": "ping"}, {"type": "brand_new"}, {}) == [Piece(), Piece(), Piece()]


@pytest.mark.parametrize(
    "event",
    [
        {"type": "message_start"},
        {"type": "content_block_delta", "index": 0},
        grows(7, type="input_json_delta", partial_json="x"),
    ],
)
def test_malformed_events_raise_what_the_provider_catches(event: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, AttributeError)):
        run(event)
