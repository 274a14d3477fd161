"""Serves the legacy completions endpoint from a chat provider.

The prompt goes out as one user message, and the answer comes back as a text_completion.
Chat models answer the prompt rather than continue it. Clients that need a continuation ask tier 1.
"""

from collections.abc import Mapping
from typing import Any

from serving.errors import InvalidRequest
from serving.hosted.providers.provider import Chunk

CONTINUATION_ONLY = {"echo": False, "suffix": None, "best_of": 1}


def chat_body(body: Mapping[str, Any]) -> dict[str, Any]:
    """The completions body as a chat body. Raises InvalidRequest for what no chat model can do."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise InvalidRequest(
            "the frontier takes one text prompt per request, not token ids or several prompts; "
            "send one text, or ask for model tier1",
            param="prompt",
        )
    for name, harmless in CONTINUATION_ONLY.items():
        if body.get(name) not in (None, harmless):
            raise InvalidRequest(f"{name} is not available at the frontier; leave it out, or ask for tier1", param=name)
    chat = {name: value for name, value in body.items() if name not in ("prompt", "logprobs", *CONTINUATION_ONLY)}
    if "max_tokens" in chat:
        chat["max_completion_tokens"] = chat.pop("max_tokens")  # chat's name. rename_params can set the old one.
    if body.get("logprobs") is not None:
        chat |= {"logprobs": True, "top_logprobs": body["logprobs"]}
    return {"messages": [{"role": "user", "content": prompt}], **chat}


def text_choice(choice: Mapping[str, Any], message: Mapping[str, Any]) -> dict[str, Any]:
    """One choice in text_completion shape. message: the chat choice's delta or whole message."""
    return {
        "index": choice.get("index", 0),
        "text": message.get("content") or "",
        "logprobs": _logprobs(choice.get("logprobs")),
        "finish_reason": choice.get("finish_reason"),
    }


def text_chunk(chunk: Chunk) -> dict[str, Any]:
    """One chat chunk in text_completion shape, which is the same for chunks and whole answers."""
    choices = [text_choice(choice, choice.get("delta") or {}) for choice in chunk.get("choices", ())]
    return {**chunk, "object": "text_completion", "choices": choices}


def _logprobs(chat: Any) -> dict[str, Any] | None:
    content = chat.get("content") if isinstance(chat, Mapping) else None
    if not content:
        return None
    return {
        "tokens": [token["token"] for token in content],
        "token_logprobs": [token["logprob"] for token in content],
        "top_logprobs": [{top["token"]: top["logprob"] for top in token.get("top_logprobs", ())} for token in content],
        "text_offset": None,
    }
