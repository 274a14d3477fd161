import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from routing.gate.config import LOGPROB_FLOOR, GateConfig
from routing.gate.judge import judge, logprob_summary, next_signal
from routing.gate.watch import DraftWatch
from routing.ladder.features import request_features
from routing.ladder.policy import PolicyConfig
from routing.records import Api, ChoiceEvidence, DraftEvidence, RejectReason, RequestFeatures, Signal, ToolCall, Verdict

R = RejectReason
GATE = GateConfig()
GOOD = "The bridge was closed in spring because two of its cables had rusted through."
REFUSAL = "I'm sorry, but I can't assist with that."
LOOP = GOOD + " We can use the second premise to conclude that it is true." * 12
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = ToolCall(name="get_weather", arguments='{"city": "Paris"}')
JSON = {"response_format": {"type": "json_object"}}


def asked(text: str = "Why was the bridge closed, and when was that?", **body: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **body}


def features_of(body: dict[str, Any]) -> RequestFeatures:
    return request_features(body, Api.CHAT, 10, PolicyConfig())


def choice(text: str = GOOD, finish_reason: str | None = "stop", **rest: Any) -> ChoiceEvidence:
    return ChoiceEvidence(text=text, finish_reason=finish_reason, **rest)


def ruling(
    *choices: ChoiceEvidence, body: dict[str, Any] | None = None, config: GateConfig = GATE, p: float | None = None
) -> Verdict:
    body = asked() if body is None else body
    return judge(body, features_of(body), DraftEvidence(choices=choices, p_judge_ok=p), config)


# What was asked, what was drafted, and every reason to reject it.
CASES: dict[str, tuple[dict[str, Any], ChoiceEvidence, tuple[RejectReason, ...]]] = {
    "a good answer": (asked(), choice(), ()),
    "a short answer": (asked(), choice("42"), ()),
    "an emoji": (asked(), choice("👍"), ()),
    "nothing": (asked(), choice(""), (R.EMPTY,)),
    "white space": (asked(), choice(" \n\t "), (R.EMPTY,)),
    "invisible characters": (asked(), choice("\u200b\u2060 \ufeff"), (R.EMPTY,)),
    "a loop": (asked(), choice(LOOP), (R.LOOP,)),
    "a refusal": (asked(), choice(REFUSAL), (R.REFUSAL,)),
    "a quoted refusal": (asked(), choice(f'A typical refusal is "{REFUSAL}" and helps nobody.'), ()),
    "another language": (asked(), choice("因为两根缆绳生锈，大桥已经关闭，何时重新开放还不清楚。"), (R.LANGUAGE,)),
    "another language, asked for": (
        asked("Say in Chinese why the bridge was closed"),
        choice("因为两根缆绳生锈，大桥已经关闭，何时重新开放还不清楚。"),
        (),
    ),
    "cut by the context": (asked(), choice(finish_reason="length"), (R.TRUNCATED,)),
    "cut by the client's own limit": (asked(max_tokens=20), choice(finish_reason="length"), ()),
    "never finished": (asked(), choice(finish_reason=None), (R.TRUNCATED,)),
    "finished for an unknown reason": (asked(), choice(finish_reason="abort"), (R.TRUNCATED,)),
    "a tool call without text": (
        asked(tools=[WEATHER]),
        choice("", finish_reason="tool_calls", tool_calls=(CALL,)),
        (),
    ),
    "a tool call that cannot be run": (
        asked(tools=[WEATHER]),
        choice("", finish_reason="tool_calls", tool_calls=(ToolCall(name="get_weather", arguments="{"),)),
        (R.TOOL_CALL,),
    ),
    "a tool call left in the text": (
        asked(tools=[WEATHER]),
        choice('{"name": "get_weather", "arguments": {"city": "Paris"}}'),
        (R.TOOL_CALL,),
    ),
    "no tool call where one is required": (asked(tools=[WEATHER], tool_choice="required"), choice(), (R.TOOL_CALL,)),
    "a tool call instead of JSON": (
        asked(tools=[WEATHER], **JSON),
        choice("", finish_reason="tool_calls", tool_calls=(CALL,)),
        (),
    ),
    "JSON": (asked(**JSON), choice('{"closed": true}'), ()),
    "no JSON": (asked(**JSON), choice(), (R.SCHEMA,)),
    "JSON cut by the client's own limit": (
        asked(max_tokens=5, **JSON),
        choice('{"closed": tr', finish_reason="length"),
        (R.SCHEMA,),
    ),
    "everything at once": (
        asked(tools=[WEATHER], tool_choice="required", **JSON),
        choice(REFUSAL + LOOP, finish_reason="length"),
        (R.LOOP, R.REFUSAL, R.TRUNCATED, R.TOOL_CALL, R.SCHEMA),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_draft_is_rejected_for_every_reason_there_is(name: str) -> None:
    """What must never reach the client."""
    body, draft, reasons = CASES[name]
    verdict = ruling(draft, body=body)
    assert verdict.reasons == reasons
    assert verdict.accepted == (not reasons)


def test_truncation_may_be_allowed() -> None:
    assert ruling(choice(finish_reason="length"), config=GateConfig(reject_truncated=False)).accepted
    assert not ruling(choice(finish_reason=None), config=GateConfig(reject_truncated=False)).accepted


def test_language_may_be_left_unchecked() -> None:
    _, draft, _ = CASES["another language"]
    assert ruling(draft, config=GateConfig(check_language=False)).accepted


@pytest.mark.parametrize(
    "text", ["Write a Python function that adds", "Classify the ticket", "Translate it: hello there"]
)
def test_work_whose_answer_may_be_in_any_language_is_not_checked_for_it(text: str) -> None:
    _, draft, _ = CASES["another language"]
    assert ruling(draft, body=asked(text)).accepted


def test_every_choice_has_to_pass() -> None:
    body = asked(n=3)
    assert ruling(choice(), choice("Because of rust."), choice(), body=body).accepted
    assert ruling(choice(), choice(""), choice(REFUSAL), body=body).reasons == (R.EMPTY, R.REFUSAL)


def test_a_missing_choice_is_an_empty_one() -> None:
    assert ruling(choice(), body=asked(n=2)).reasons == (R.EMPTY,)
    assert ruling().reasons == (R.EMPTY,)


@pytest.mark.parametrize(
    ("config", "logprobs", "reasons"),
    [
        (GateConfig(), [-9.0] * 40, ()),  # no threshold, no check
        (GateConfig(min_mean_logprob=-1.0), [-1.0] * 40, ()),
        (GateConfig(min_mean_logprob=-1.0), [-1.01] * 40, (R.LOGPROB,)),
        (GateConfig(min_mean_logprob=-1.0), [], ()),  # not reported
        (GateConfig(min_window_logprob=-2.0, window_tokens=4), [0.0] * 40 + [-2.0] * 4, ()),
        (GateConfig(min_window_logprob=-2.0, window_tokens=4), [0.0] * 40 + [-2.1] * 4 + [0.0] * 40, (R.LOGPROB,)),
        (GateConfig(min_window_logprob=-2.0, window_tokens=4), [0.0] * 40 + [-2.1] * 3 + [0.0] * 40, ()),
        (GateConfig(min_mean_logprob=-1.0, min_window_logprob=-1.0), [-5.0] * 40, (R.LOGPROB,)),
        (GateConfig(abort_window_logprob=-3.0), [0.0] * 40 + [-3.1] * 16, (R.LOGPROB_COLLAPSE,)),
        (GateConfig(abort_window_logprob=-3.0), [0.0] * 40 + [-3.1] * 15, ()),
        (GateConfig(abort_window_logprob=-3.0), [-9.0] * 3 + [0.0] * 40, ()),  # a window is full or none
        (GateConfig(min_mean_logprob=-1.0), [math.nan] * 40, (R.LOGPROB,)),
        (GateConfig(min_mean_logprob=-1.0), [-math.inf] * 40, (R.LOGPROB,)),
    ],
)
def test_logprobs_count_against_the_thresholds_that_are_set(
    config: GateConfig, logprobs: list[float], reasons: tuple[RejectReason, ...]
) -> None:
    assert ruling(choice(token_logprobs=tuple(logprobs)), config=config).reasons == reasons


def test_of_several_choices_the_least_certain_counts() -> None:
    sure, unsure = choice(token_logprobs=(-0.1,) * 20), choice(token_logprobs=(-2.0,) * 20)
    verdict = ruling(sure, unsure, body=asked(n=2), config=GateConfig(min_mean_logprob=-1.0))
    assert verdict.reasons == (R.LOGPROB,)
    assert verdict.mean_logprob == pytest.approx(-2.0)
    assert verdict.worst_window_logprob == pytest.approx(-2.0)


@pytest.mark.parametrize(
    ("p", "reasons"),
    [
        (0.0, (R.JUDGE,)),
        (math.nextafter(0.6, 0), (R.JUDGE,)),
        (0.6, ()),
        (1.0, ()),
        (None, (R.JUDGE_FAILED,)),
    ],
)
def test_the_judge_s_verdict_counts_against_its_threshold(p: float | None, reasons: tuple[RejectReason, ...]) -> None:
    """A judge that gave no verdict rejects."""
    assert ruling(choice(), config=GateConfig(judge_threshold=0.6), p=p).reasons == reasons
    assert ruling(choice(), p=p).accepted  # not asked, not counted


@pytest.mark.parametrize("p", [math.nan, 1.5, -0.5, math.inf])
def test_what_is_no_probability_is_no_verdict(p: float) -> None:
    body = asked()
    evidence = DraftEvidence(choices=(choice(),)).model_copy(update={"p_judge_ok": p})
    verdict = judge(body, features_of(body), evidence, GateConfig(judge_threshold=0.6))
    assert verdict.reasons == (R.JUDGE_FAILED,)


def test_the_judge_is_asked_only_where_it_can_change_the_ruling() -> None:
    judged = GateConfig(judge_threshold=0.6)
    nothing, asked = DraftEvidence(choices=()), DraftEvidence(choices=(), asked=(Signal.VERDICT,))
    assert next_signal(ruling(choice(), config=judged), nothing, judged) is Signal.VERDICT
    assert next_signal(ruling(choice(), config=judged), asked, judged) is None
    assert next_signal(ruling(choice(""), config=judged), nothing, judged) is None
    assert next_signal(ruling(choice()), nothing, GATE) is None


logprob = st.floats(-20, 0)


@given(logprobs=st.lists(logprob, min_size=1, max_size=80), window=st.integers(1, 20))
def test_summary_is_the_mean_and_the_lowest_window(logprobs: list[float], window: int) -> None:
    width = min(window, len(logprobs))
    windows = [sum(logprobs[i : i + width]) / width for i in range(len(logprobs) - width + 1)]
    mean, worst = logprob_summary(logprobs, window)
    assert mean == pytest.approx(sum(logprobs) / len(logprobs), abs=1e-9)
    assert worst == pytest.approx(min(windows), abs=1e-9)


def test_nothing_reported_is_not_measured() -> None:
    assert logprob_summary((), 16) == (None, None)


@given(st.lists(st.floats(), min_size=1, max_size=40), st.integers(1, 20))
def test_any_reported_number_gives_a_logprob(logprobs: list[float], window: int) -> None:
    mean, worst = logprob_summary(logprobs, window)
    assert mean is not None
    assert worst is not None
    assert LOGPROB_FLOOR <= mean <= 0
    assert LOGPROB_FLOOR <= worst <= 0


TEXTS = st.sampled_from([GOOD, LOOP, REFUSAL, "", " ", "{}", REFUSAL + LOOP, '{"name": "get_weather", "arguments": {'])
choices = st.builds(
    ChoiceEvidence,
    text=TEXTS | st.text(max_size=40),
    finish_reason=st.sampled_from(["stop", "length", "tool_calls", "abort", None]),
    tool_calls=st.lists(
        st.just(CALL) | st.builds(ToolCall, name=st.text(max_size=4), arguments=st.text(max_size=8))
    ).map(tuple),
    token_logprobs=st.lists(st.floats(), max_size=40).map(tuple),
)
bodies = st.builds(
    asked,
    text=st.sampled_from(["hi", "Write a Python function", "为什么大桥关闭了？请解释原因。", ""]),
    n=st.integers(1, 3),
    tools=st.sampled_from([None, [WEATHER]]),
    tool_choice=st.sampled_from(["auto", "none", "required"]),
    response_format=st.sampled_from([None, {"type": "json_object"}]),
    max_tokens=st.none() | st.integers(1, 9),
)
maybe_logprob = st.none() | logprob
configs = st.builds(
    GateConfig,
    min_mean_logprob=maybe_logprob,
    min_window_logprob=maybe_logprob,
    abort_window_logprob=maybe_logprob,
    window_tokens=st.integers(1, 20),
    abort_on_loop=st.booleans(),
    abort_on_refusal=st.booleans(),
    reject_truncated=st.booleans(),
    check_language=st.booleans(),
    judge_threshold=st.none() | st.floats(0, 1),
)


@given(body=bodies, drafted=st.lists(choices, max_size=3), p=st.none() | st.floats(0, 1), config=configs)
def test_reasons_are_empty_exactly_when_accepted(
    body: dict[str, Any], drafted: list[ChoiceEvidence], p: float | None, config: GateConfig
) -> None:
    verdict = ruling(*drafted, body=body, config=config, p=p)
    assert verdict.accepted == (verdict.reasons == ())
    assert len(set(verdict.reasons)) == len(verdict.reasons)
    wants = next_signal(verdict, DraftEvidence(choices=()), config) is not None
    assert wants <= (config.judge_threshold is not None)


@given(body=bodies, drafted=st.lists(choices, max_size=3), low=st.floats(0, 1), high=st.floats(0, 1), config=configs)
def test_a_better_verdict_of_the_judge_never_rejects(
    body: dict[str, Any], drafted: list[ChoiceEvidence], low: float, high: float, config: GateConfig
) -> None:
    low, high = sorted((low, high))
    if ruling(*drafted, body=body, config=config, p=low).accepted:
        assert ruling(*drafted, body=body, config=config, p=high).accepted


def watch(
    drafted: Sequence[ChoiceEvidence], body: dict[str, Any], config: GateConfig, size: int = 5
) -> tuple[DraftEvidence, RejectReason | None]:
    """Feed a watch with the choices in turns of `size` characters and one logprob."""
    watched = DraftWatch(config, features_of(body))
    steps = max([len(c.text) // size + 1 for c in drafted] + [len(c.token_logprobs) for c in drafted])
    lost = None
    for step in range(steps):
        for index, draft in enumerate(drafted):
            text = draft.text[step * size : (step + 1) * size]
            lost = watched.observe(index, text, draft.token_logprobs[step : step + 1], 1)
    for index, draft in enumerate(drafted):
        lost = watched.finish(index, draft.finish_reason, draft.tool_calls)
    return watched.evidence(), lost


@given(body=bodies, drafted=st.lists(choices, min_size=3, max_size=3), config=configs, size=st.integers(1, 50))
def test_watching_a_draft_never_changes_the_ruling(
    body: dict[str, Any], drafted: list[ChoiceEvidence], config: GateConfig, size: int
) -> None:
    drafted = drafted[: body["n"]]
    evidence, lost = watch(drafted, body, config, size)
    verdict = judge(body, features_of(body), evidence, config)
    assert verdict == ruling(*drafted, body=body, config=config)
    assert lost is None or lost in verdict.reasons


@pytest.mark.parametrize(
    ("config", "draft", "lost"),
    [
        (GATE, choice(), None),
        (GATE, choice(LOOP), R.LOOP),
        (GateConfig(abort_on_loop=False), choice(LOOP), None),
        (GATE, choice(REFUSAL), R.REFUSAL),
        (GateConfig(abort_on_refusal=False), choice(REFUSAL), None),
        (GateConfig(abort_on_refusal=False), choice(REFUSAL + LOOP), R.LOOP),
        (GATE, choice(token_logprobs=(-9.0,) * 40), None),
        (GateConfig(abort_window_logprob=-3.0), choice(token_logprobs=(-9.0,) * 40), R.LOGPROB_COLLAPSE),
        (GATE, choice("I cannot browse the web."), None),  # may go on to help: the gate rules at the end
    ],
)
def test_a_lost_draft_is_noticed_while_it_is_written(
    config: GateConfig, draft: ChoiceEvidence, lost: RejectReason | None
) -> None:
    assert watch([draft], asked(), config)[1] == lost


def test_a_lost_draft_is_noticed_long_before_its_end() -> None:
    watched = DraftWatch(GATE, features_of(asked()))
    words = [f"{word} " for word in (GOOD + " We can conclude that it is true." * 200).split()]
    seen = next(at for at, word in enumerate(words) if watched.observe(0, word, (), 1))
    assert seen < 100 < len(words) / 10


def test_one_lost_choice_loses_the_draft() -> None:
    watched = DraftWatch(GATE, features_of(asked(n=2)))
    assert watched.observe(0, GOOD, (), 20) is None
    assert watched.observe(1, REFUSAL, (), 10) is R.REFUSAL
    assert watched.observe(0, GOOD, (), 20) is R.REFUSAL


def test_a_choice_whose_last_word_closes_a_loop_is_lost_when_it_is_finished() -> None:
    words = ["red", "green", "blue", "sky"] * 40
    closing = next(n for n in range(1, len(words)) if ruling(choice(" ".join(words[:n]))).reasons == (R.LOOP,))
    watched = DraftWatch(GATE, features_of(asked()))
    assert watched.observe(0, " ".join(words[:closing]), (), closing) is None  # the last word may still grow
    assert watched.finish(0, "stop", ()) is R.LOOP


def test_evidence_is_what_was_observed() -> None:
    watched = DraftWatch(GATE, features_of(asked(n=2)))
    watched.observe(0, "Because ", (-0.1, -0.2), 2)
    watched.observe(1, "Rust.", (-0.3,), 1)
    watched.observe(0, "of rust.", (-0.4,), 1)
    watched.finish(0, "stop", ())
    watched.finish(1, "tool_calls", (CALL,))
    assert watched.evidence().choices == (
        choice("Because of rust.", token_logprobs=(-0.1, -0.2, -0.4), output_tokens=3, watched=()),
        choice("Rust.", "tool_calls", token_logprobs=(-0.3,), output_tokens=1, tool_calls=(CALL,), watched=()),
    )


def test_tokens_are_those_of_the_choice_that_is_furthest_behind() -> None:
    watched = DraftWatch(GATE, features_of(asked(n=2)))
    watched.observe(0, GOOD, (), 20)
    assert watched.tokens == 0
    watched.observe(1, "Rust.", (), 2)
    assert watched.tokens == 2
    watched.finish(1, "stop", ())
    assert watched.tokens == 20
    watched.finish(0, "stop", ())
    assert watched.tokens == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_mean_logprob": 0.1},
        {"judge_threshold": 1.1},
        {"window_tokens": 0},
        {"max_repeat_ratio": -0.1},
        {"loop_min_tokens": 1},
        {"min_mean_logprobs": -1},
    ],
)
def test_a_setting_out_of_range_or_misspelled_stops_the_start(wrong: dict[str, object]) -> None:
    """A bad configuration is refused as a whole."""
    with pytest.raises(ValidationError):
        GateConfig.model_validate(wrong)
