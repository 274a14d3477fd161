from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.records import Api
from routing.text.request_body import (
    EDGE_CHARS,
    asked_text,
    conversation_text,
    edges,
    has_content,
    last_user_text,
    texts_of,
    words,
)


@pytest.mark.parametrize(
    ("body", "api", "expected"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, Api.CHAT, "b"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "tool", "content": "b"}]}, Api.CHAT, "a"),
        ({"messages": [{"role": "user", "content": [{"text": "a"}, {"text": "b"}]}]}, Api.CHAT, "a\nb"),
        ({"messages": [{"role": "user", "content": None}]}, Api.CHAT, ""),
        ({"messages": "a"}, Api.CHAT, ""),
        ({"prompt": "a"}, Api.COMPLETIONS, "a"),
        ({"prompt": ["a", "b"]}, Api.COMPLETIONS, "a"),
        ({"prompt": [1, 2]}, Api.COMPLETIONS, ""),
        ({"prompt": []}, Api.COMPLETIONS, ""),
        ({}, Api.CHAT, ""),
    ],
)
def test_the_text_of_a_request_is_its_last_user_message_or_its_prompt(
    body: dict[str, Any], api: Api, expected: str
) -> None:
    assert last_user_text(body, api) == expected


def test_developer_messages_are_system_messages() -> None:
    messages = [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]
    messages += [{"role": "developer", "content": "c"}]
    assert texts_of("system", {"messages": messages}) == ["a", "c"]


@pytest.mark.parametrize("role", ["system", "developer"])
def test_heads_read_a_conversation_without_its_system_prompt(role: str) -> None:
    asked = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    body = {"messages": [{"role": role, "content": "x"}, *asked]}
    assert asked_text(body, Api.CHAT) == conversation_text({"messages": asked}, Api.CHAT)
    assert conversation_text(body, Api.CHAT).startswith(f"{role}: x\n\nuser: a")


def test_a_lone_question_reads_the_same_under_every_system_prompt() -> None:
    question = {"role": "user", "content": "a"}
    assert asked_text({"messages": [{"role": "system", "content": "x"}, question]}, Api.CHAT) == "a"
    assert asked_text({"messages": [question]}, Api.CHAT) == "a"


def test_a_system_prompt_alone_is_what_was_asked() -> None:
    assert asked_text({"messages": [{"role": "system", "content": "x"}]}, Api.CHAT) == "x"
    assert asked_text({"prompt": "a"}, Api.COMPLETIONS) == "a"


@given(st.text(max_size=50), st.integers(0, 3 * EDGE_CHARS))
def test_edges_are_head_and_tail(text: str, more: int) -> None:
    whole = text + "x" * more + text
    cut = edges(whole)
    assert len(cut) <= 2 * EDGE_CHARS + 1
    assert cut.startswith(text)
    assert cut.endswith(text)
    assert len(whole) > 2 * EDGE_CHARS or cut == whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat, 3 dogs; don't!", ["The", "cat", "dogs", "don", "t"]),
        ("पुल बंद है।", ["पुल", "बंद", "है"]),
        ("你好，世界。", ["你好", "世界"]),
        ("42 + 17", []),
    ],
)
def test_words_are_runs_without_digits_and_punctuation(text: str, expected: list[str]) -> None:
    assert words(text) == expected


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b", "\ufeff \u2060", "\x00"])
def test_invisible_text_has_no_content(text: str) -> None:
    assert not has_content(text)


@pytest.mark.parametrize("text", ["a", " .", "👍", "\u200bx"])
def test_visible_text_has_content(text: str) -> None:
    assert has_content(text)
