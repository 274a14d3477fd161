"""Frames carry the real chunks, and evidence that is neither late nor lost."""

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.records import ToolCall, Usage
from serving.engine.framing import Evidence, Framer, Step, merge_by_choice, usage_of
from serving.request.frame import Frame


def framer() -> Framer:
    return Framer("m", "replica")


def chunk(index: int = 0, finish_reason: str | None = None, **delta: Any) -> str:
    return json.dumps({"choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]})


def news(choice: int, text: str) -> Evidence:
    return Evidence(choice, text, (-0.5,), 1)


def test_evidence_travels_with_its_chunk() -> None:
    (frame,) = framer().frames(Step(chunk(content="Hi"), (news(0, "Hi"),)), 0.25)
    assert (frame.data, frame.text, frame.logprobs, frame.n_tokens) == (chunk(content="Hi"), "Hi", (-0.5,), 1)
    assert (frame.engine_s, frame.replica_id, frame.model) == (0.25, "replica", "m")


def test_evidence_of_another_choice_comes_first_and_without_data() -> None:
    other, own = framer().frames(Step(chunk(0, content="a"), (news(1, "b"), news(0, "a"))), 0.0)
    assert (other.data, other.choice, other.text) == (None, 1, "b")
    assert (own.data, own.choice, own.text) == (chunk(0, content="a"), 0, "a")


def test_steps_that_were_not_shown_are_summed_up() -> None:
    (frame,) = framer().frames(Step(None, (news(0, "a"), news(0, "b"))), 0.0)
    assert (frame.data, frame.text, frame.logprobs, frame.n_tokens) == (None, "ab", (-0.5, -0.5), 2)


def test_tool_call_is_put_together_from_its_deltas() -> None:
    f = framer()
    parts = [{"index": 0, "id": "x", "function": {"name": "look", "arguments": ""}}]
    assert f.frames(Step(chunk(tool_calls=parts), ()), 0.0)[0].tool_calls == ()
    f.frames(Step(chunk(tool_calls=[{"index": 1, "function": {"name": "wait", "arguments": "{}"}}]), ()), 0.0)
    f.frames(Step(chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"a":'}}]), ()), 0.0)
    last = [{"index": 0, "function": {"arguments": "1}"}}]
    (frame,) = f.frames(Step(chunk(finish_reason="tool_calls", tool_calls=last), ()), 0.0)
    assert frame.finish_reason == "tool_calls"
    assert frame.tool_calls == (ToolCall(name="look", arguments='{"a":1}'), ToolCall(name="wait", arguments="{}"))


def test_whole_body_ends_every_choice_once() -> None:
    message = {"content": "a", "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": "{}"}}]}
    choices = [
        {"index": 0, "message": {"content": "z"}, "finish_reason": "stop"},
        {"index": 1, "message": message, "finish_reason": "tool_calls"},
    ]
    body = json.dumps({"choices": choices, "usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    first, last = framer().frames(Step(body, (news(1, "a"), news(0, "z"))), 0.0)[1:]
    assert (first.choice, first.finish_reason, first.data) == (0, "stop", None)
    assert (last.choice, last.finish_reason, last.data) == (1, "tool_calls", body)
    assert last.tool_calls == (ToolCall(name="f", arguments="{}"),)
    assert last.usage == Usage(input_tokens=3, output_tokens=2)


def test_usage_chunk_has_no_choice_and_loses_no_late_evidence() -> None:
    data = json.dumps({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}})
    frames = framer().frames(Step(data, (news(0, "late"),)), 0.0)
    assert "".join(f.text for f in frames) == "late"
    assert frames[-1].usage == Usage(input_tokens=1, output_tokens=1)


@given(st.lists(st.tuples(st.integers(0, 3), st.text(max_size=3), st.lists(st.floats(-9, 0), max_size=3)), max_size=20))
def test_framing_neither_loses_nor_invents_evidence(items: list[tuple[int, str, list[float]]]) -> None:
    evidence = tuple(Evidence(c, t, tuple(p), len(p)) for c, t, p in items)
    for data in (None, chunk(2, content="x")):
        frames = framer().frames(Step(data, evidence), 0.0)
        for choice in range(4):
            mine = [e for e in evidence if e.choice == choice]
            seen = [f for f in frames if f.choice == choice]
            assert "".join(f.text for f in seen) == "".join(e.text for e in mine)
            assert [p for f in seen for p in f.logprobs] == [p for e in mine for p in e.logprobs]
            assert sum(f.n_tokens for f in seen) == sum(e.n_tokens for e in mine)


def test_nothing_new_is_no_frame() -> None:
    assert merge_by_choice(()) == {}
    assert framer().frames(Step(None, ()), 0.0) == []


@pytest.mark.parametrize(
    ("reported", "expected"),
    [
        (None, None),
        ({"prompt_tokens": 5, "completion_tokens": 2}, Usage(input_tokens=5, output_tokens=2)),
        (
            {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 0}},
            Usage(input_tokens=5, output_tokens=2, cached_tokens=0),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": None, "prompt_tokens_details": None},
            Usage(input_tokens=5, output_tokens=0),
        ),
    ],
    ids=["absent", "plain", "nothing cached", "nulls"],
)
def test_cached_tokens_that_were_not_reported_are_unknown_not_zero(reported: Any, expected: Usage | None) -> None:
    assert usage_of(reported) == expected


def test_frame_survives_the_way_between_processes() -> None:
    frame = Frame(data="{}", text="a", logprobs=(-1.0,), usage=Usage(input_tokens=1, output_tokens=1))
    assert pickle.loads(pickle.dumps(frame)) == frame
