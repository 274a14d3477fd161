"""serving/hosted/partial_answer.py: pieces become frames or one body, and usage is known at any moment."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.records import Api, ToolCall, Usage
from serving.hosted.partial_answer import Answer, estimate_tokens
from serving.hosted.providers.provider import Counts, Piece
from serving.request.frame import Frame
from tests.serving.hosted.asking import a_call


def chunk(delta: dict[str, Any], finish_reason: str | None = None, index: int = 0, **fields: Any) -> Piece:
    choice = {"index": index, "delta": delta, "finish_reason": finish_reason}
    return Piece(chunk={"id": "c1", "created": 5, "model": "big-2026", "choices": [choice], **fields})


ROLE = chunk({"role": "assistant", "content": ""})
STOP = chunk({}, "stop")


def take(answer: Answer, *pieces: Piece) -> list[Frame]:
    return [frame for piece in pieces for frame in answer.take(piece)]


def test_nothing_leaves_before_the_first_content() -> None:
    answer = Answer(a_call(stream=True), "big")
    assert take(answer, Piece(), ROLE, Piece(chunk={"choices": []})) == []
    frames = take(answer, chunk({"content": "hi"}))
    assert [frame.text for frame in frames] == ["", "hi"]
    assert [json.loads(f.data or "")["choices"][0]["delta"] for f in frames] == [
        ROLE.chunk["choices"][0]["delta"],
        {"content": "hi"},
    ]


@pytest.mark.parametrize(
    "delta",
    [{"content": "x"}, {"tool_calls": [{"index": 0, "id": "t"}]}, {"refusal": "no"}, {"reasoning_content": "hm"}],
)
def test_text_tool_calls_refusals_and_reasoning_are_content(delta: dict[str, Any]) -> None:
    assert take(Answer(a_call(stream=True), "big"), ROLE, chunk(delta)) != []


def test_an_empty_answer_leaves_with_its_finish() -> None:
    assert [f.finish_reason for f in take(Answer(a_call(stream=True), "big"), ROLE, STOP)] == [None, "stop"]


def test_the_finishing_frame_has_the_complete_tool_calls() -> None:
    part = [{"index": 0, "id": "t", "function": {"name": "f", "arguments": '{"a"'}}]
    rest = [{"index": 0, "function": {"arguments": ":1}"}}]
    frames = take(
        Answer(a_call(stream=True), "big"),
        chunk({"tool_calls": part}),
        chunk({"tool_calls": rest}),
        chunk({}, "tool_calls"),
    )
    assert frames[-1].tool_calls == (ToolCall(name="f", arguments='{"a":1}'),)
    assert all(frame.tool_calls == () for frame in frames[:-1])


def test_the_id_and_the_model_stay_what_they_were_first() -> None:
    answer = Answer(a_call(stream=True), "big")
    frames = take(answer, chunk({"content": "a"}), chunk({"content": "b"}, id="other", model="else"), STOP)
    sent = [json.loads(frame.data or "") for frame in (*frames, answer.last_frame())]
    assert {(s["id"], s["model"], s["created"]) for s in sent} == {("c1", "big-2026", 5)}
    assert {frame.model for frame in frames} == {"big-2026"}


def test_several_choices_in_one_chunk_are_sent_once() -> None:
    both = Piece(chunk={"id": "c", "choices": [{"index": i, "delta": {"content": t}} for i, t in enumerate("ab")]})
    frames = take(Answer(a_call(stream=True, n=2), "big"), both)
    assert [(f.choice, f.text, f.data is None) for f in frames] == [(0, "a", False), (1, "b", True)]


@pytest.mark.parametrize(
    ("n", "pieces", "complete"),
    [
        (1, [ROLE], False),
        (1, [chunk({"content": "a"})], False),
        (1, [chunk({"content": "a"}), STOP], True),  # the end marker may be missing
        (1, [Piece(done=True)], False),  # an end marker alone is no answer
        (2, [STOP], False),
        (2, [STOP, Piece(done=True)], True),
        (2, [STOP, chunk({}, index=1)], False),
        (2, [STOP, chunk({}, "stop", index=1)], True),
    ],
)
def test_an_answer_is_complete_when_every_choice_was_finished(n: int, pieces: list[Piece], complete: bool) -> None:
    answer = Answer(a_call(n=n), "big")
    take(answer, *pieces)
    assert answer.complete is complete


def test_usage_comes_from_the_provider_once() -> None:
    """Repeated running totals are not added up."""
    answer = Answer(a_call(), "big")
    take(answer, *(Piece(counts=Counts(10, n, cached_tokens=4)) for n in (1, 2, 3, 3)))
    assert answer.usage() == Usage(input_tokens=10, output_tokens=3, cached_tokens=4)


def test_missing_usage_is_estimated_and_marked() -> None:
    """Tool calls and reasoning count as output too."""
    answer = Answer(a_call(input_tokens=7), "big", count_tokens=len)
    call = [{"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}}]
    take(answer, chunk({"content": "abcd"}), chunk({"tool_calls": call}), chunk({"reasoning_content": "hm"}))
    assert answer.usage() == Usage(input_tokens=7, output_tokens=4 + 3 + 2, estimated=True)


def test_a_count_that_came_is_kept_where_another_is_missing() -> None:
    answer = Answer(a_call(), "big", count_tokens=len)
    take(answer, Piece(counts=Counts(input_tokens=50)), chunk({"content": "abc"}))
    assert answer.usage() == Usage(input_tokens=50, output_tokens=3, estimated=True)


@given(*(st.none() | st.integers(0, 50) for _ in range(4)))
def test_cached_and_written_tokens_never_exceed_the_input(
    i: int | None, o: int | None, c: int | None, w: int | None
) -> None:
    answer = Answer(a_call(), "big")
    take(answer, Piece(counts=Counts(i, o, c, w)))
    usage = answer.usage()
    assert (usage.cached_tokens or 0) + (usage.cache_write_tokens or 0) <= usage.input_tokens


def test_the_providers_own_usage_object_is_passed_on_unless_ours_had_to_fill_in() -> None:
    wire = {"prompt_tokens": 3, "completion_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 2}}
    answer = Answer(a_call(stream=True), "big")
    take(answer, STOP, Piece(counts=Counts(3, 4, wire=wire)))
    assert json.loads(answer.last_frame().data or "")["usage"] == wire
    partial = Answer(a_call(stream=True), "big")
    take(partial, STOP, Piece(counts=Counts(3, None, wire={"prompt_tokens": 3})))
    assert json.loads(partial.last_frame().data or "")["usage"]["completion_tokens"] == 0


PIECES = st.lists(
    st.one_of(
        st.text(max_size=8).map(lambda t: chunk({"content": t})),
        st.text(max_size=8).map(
            lambda t: chunk({"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": t}}]})
        ),
        st.just(Piece()),
        st.just(ROLE),
    ),
    max_size=12,
)


@given(PIECES, st.sampled_from(Api))
def test_streamed_and_whole_answers_say_the_same(pieces: list[Piece], api: Api) -> None:
    pieces = [*pieces, STOP]
    streamed, whole = Answer(a_call(stream=True, api=api), "big"), Answer(a_call(api=api), "big")
    frames = take(streamed, *pieces)
    assert take(whole, *pieces) == []
    last = whole.last_frame()
    assert "".join(frame.text for frame in frames) == last.text
    assert frames[-1].tool_calls == last.tool_calls
    assert frames[-1].finish_reason == last.finish_reason == "stop"
    assert streamed.usage() == whole.usage()
    body = json.loads(last.data or "")
    if api is Api.COMPLETIONS:
        assert body["object"] == "text_completion"
        sent = [json.loads(frame.data or "") for frame in frames]
        assert "".join(s["choices"][0]["text"] for s in sent) == body["choices"][0]["text"] == last.text
    else:
        assert body["object"] == "chat.completion"
        assert (body["choices"][0]["message"]["content"] or "") == last.text


@given(st.text())
def test_estimates_grow_with_the_text_and_are_zero_only_for_nothing(text: str) -> None:
    assert (estimate_tokens(text) == 0) == (text == "")
    assert estimate_tokens(text + "word") > estimate_tokens(text)
