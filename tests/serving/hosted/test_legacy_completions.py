"""serving/hosted/legacy_completions.py: the legacy endpoint at a chat provider."""

from typing import Any

import pytest

from serving.errors import InvalidRequest
from serving.hosted.legacy_completions import chat_body, text_chunk


@pytest.mark.parametrize("prompt", ["once upon", ["once upon"]])
def test_the_prompt_becomes_one_user_message(prompt: Any) -> None:
    body = chat_body({"prompt": prompt, "max_tokens": 5, "echo": False, "suffix": None, "best_of": 1})
    assert body == {"messages": [{"role": "user", "content": "once upon"}], "max_completion_tokens": 5}


def test_logprobs_are_asked_for_in_chat_terms() -> None:
    assert chat_body({"prompt": "x", "logprobs": 2})["top_logprobs"] == 2
    assert "logprobs" not in chat_body({"prompt": "x"})


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("prompt", {"prompt": [1, 2, 3]}),
        ("prompt", {"prompt": ["a", "b"]}),
        ("prompt", {"prompt": [[1, 2]]}),
        ("echo", {"prompt": "a", "echo": True}),
        ("suffix", {"prompt": "a", "suffix": "b"}),
        ("best_of", {"prompt": "a", "best_of": 3}),
    ],
)
def test_what_no_chat_model_can_do_is_refused_by_name(param: str, body: dict[str, Any]) -> None:
    """A clear 400, never an answer that ignored the parameter."""
    with pytest.raises(InvalidRequest) as refused:
        chat_body(body)
    assert refused.value.param == param


def test_chunks_come_back_in_text_completion_shape() -> None:
    top = [{"token": "hi", "logprob": -0.1}, {"token": "yo", "logprob": -2.0}]
    logprobs = {"content": [{"token": "hi", "logprob": -0.1, "top_logprobs": top}]}
    choice = {"index": 0, "delta": {"content": "hi"}, "logprobs": logprobs, "finish_reason": None}
    chunk = text_chunk({"id": "c", "created": 1, "model": "m", "object": "chat.completion.chunk", "choices": [choice]})
    assert chunk["object"] == "text_completion"
    assert chunk["choices"][0]["text"] == "hi"
    assert chunk["choices"][0]["logprobs"]["token_logprobs"] == [-0.1]
    assert chunk["choices"][0]["logprobs"]["top_logprobs"] == [{"hi": -0.1, "yo": -2.0}]
