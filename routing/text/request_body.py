"""Reads the texts of a request. Never raises on odd shapes, because logged bodies are read years later."""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Final

from routing.records import Api

SYSTEM_ROLES: Final = frozenset({"system", "developer"})
EDGE_CHARS = 4096  # what the rules read of either end: about 1,000 tokens, where instructions stand in long prompts

# Not \w+: it would cut words at the vowel signs of Indic scripts.
_WORD = re.compile(r"[^\s\d.,;:!?¿¡\"'`’«»„“”()\[\]{}<>*_/\\|=+।、。，！？-]+")


def last_user_text(body: Mapping[str, Any], api: Api) -> str:
    """The last user message of a chat, or the (first) prompt of a completion. "" when there is none."""
    if api is Api.COMPLETIONS:
        prompt = body.get("prompt")
        if isinstance(prompt, list):
            prompt = prompt[0] if prompt else None
        return prompt if isinstance(prompt, str) else ""
    return next(iter(texts_of("user", body, newest_first=True)), "")


def conversation_text(body: Mapping[str, Any], api: Api) -> str:
    """The whole conversation as one text: a single message as it is, else one paragraph with its role for each."""
    messages = messages_of(body)
    return last_user_text(body, api) if api is Api.COMPLETIONS or not messages else joined(messages)


def asked_text(body: Mapping[str, Any], api: Api) -> str:
    """What learned heads read: the conversation without its system prompt, which all requests of a product share.

    Heads trained without a system prompt took it for evidence. With 80 words of it they would have kept 130 of 140
    questions on tier 1 instead of 40. The category rules do read it.
    """
    messages = messages_of(body)
    asked = [m for m in messages if m.get("role") not in SYSTEM_ROLES] or messages
    return last_user_text(body, api) if api is Api.COMPLETIONS or not messages else joined(asked)


def joined(messages: Sequence[Mapping[str, Any]]) -> str:
    """One message as it is, several as paragraphs that begin with the role."""
    if len(messages) == 1:
        return content_text(messages[0].get("content"))
    return "\n\n".join(f"{m.get('role')}: {content_text(m.get('content'))}" for m in messages)


def texts_of(role: str, body: Mapping[str, Any], *, newest_first: bool = False) -> list[str]:
    """The texts of every message of one role. `system` includes its newer name `developer`."""
    roles = SYSTEM_ROLES if role == "system" else {role}
    found = [content_text(m.get("content")) for m in messages_of(body) if m.get("role") in roles]
    return found[::-1] if newest_first else found


def messages_of(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The messages of a chat, [] for a completion."""
    messages = body.get("messages")
    return [m for m in messages if isinstance(m, Mapping)] if isinstance(messages, list) else []


def content_text(content: Any) -> str:
    """The text of a message: a string, or the text parts of a list, one a line."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [p.get("text") for p in content if isinstance(p, Mapping)]
    return "\n".join(p for p in parts if isinstance(p, str))


def edges(text: str) -> str:
    """Head and tail of a text, at most 2 * EDGE_CHARS characters and a line break, so that rules take bounded time."""
    return text if len(text) <= 2 * EDGE_CHARS else f"{text[:EDGE_CHARS]}\n{text[-EDGE_CHARS:]}"


def words(text: str) -> list[str]:
    """The words of a text in order: runs of anything but space, digits and punctuation. Case is kept."""
    return _WORD.findall(text)


def has_content(text: str) -> bool:
    """Whether a reader would see anything: more than white space and invisible characters."""
    return any(not char.isspace() and unicodedata.category(char) not in ("Cc", "Cf") for char in text)


def callable_tools(body: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The tools the model may call. Empty when tool_choice is "none"."""
    tools = body.get("tools")
    if not isinstance(tools, list) or body.get("tool_choice") == "none":
        return []
    return [tool for tool in tools if isinstance(tool, Mapping)]


def response_format(body: Mapping[str, Any]) -> str:
    """`type` of response_format, "text" when absent."""
    wanted = body.get("response_format")
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    return kind if isinstance(kind, str) else "text"
