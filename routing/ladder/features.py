"""What may be known of a request before a model has read it. The same code runs in serving and in training.

Instructions in a request's texts are never obeyed. See routing/text/steering.py.
"""

from collections.abc import Mapping
from typing import Any, Final

from routing.ladder.policy import PolicyConfig
from routing.records import Api, RequestFeatures
from routing.text.categories import CATEGORIES, category_of
from routing.text.language import language
from routing.text.request_body import callable_tools, edges, last_user_text, messages_of, response_format, texts_of
from routing.text.steering import steering_attempt, without_steering

__all__ = ["request_features", "steering_attempt"]

CHAT_MAX_CHARS: Final = 1500  # a longer message that matched no rule is a document, not a conversation
COMPLETIONS_MAX_TOKENS: Final = 16  # OpenAI's default for /v1/completions. Chat has none


def request_features(body: Mapping[str, Any], api: Api, input_tokens: int, config: PolicyConfig) -> RequestFeatures:
    """The features of one request.

    body: OpenAI request body. Fields of the wrong type count as absent.
    input_tokens: tier-1 tokens of the rendered prompt.
    The category is the client's `metadata.category` when it is one of CATEGORIES or of config.categories. Else it is
    the first that applies: tools, JSON output, the words of the last user message, those of the system message, chat
    or other by length.
    """
    tools = callable_tools(body)
    tool_choice = body.get("tool_choice")
    n_choices = body.get("n")
    json_output = response_format(body) in ("json_object", "json_schema")
    user = without_steering(edges(last_user_text(body, api)))
    if (named := named_category(body, config)) is not None:
        category = named
    elif tools:
        category = "tools"
    elif json_output:
        category = "json"
    else:
        system = without_steering(edges("\n".join(texts_of("system", body))))
        by_length = "chat" if api is Api.CHAT and len(user) <= CHAT_MAX_CHARS else "other"
        category = category_of(user) or category_of(system) or by_length
    return RequestFeatures(
        category=category,
        input_tokens=input_tokens,
        max_output_tokens=max_output_tokens(body, api),
        n_messages=len(messages_of(body)),
        n_tools=len(tools),
        tool_choice_required=bool(tools) and (tool_choice == "required" or isinstance(tool_choice, Mapping)),
        json_output=json_output,
        n_choices=n_choices if isinstance(n_choices, int) and n_choices >= 1 else 1,
        language=language(user),
    )


def named_category(body: Mapping[str, Any], config: PolicyConfig) -> str | None:
    """The category that the client named in `metadata`, when it is a known one."""
    metadata = body.get("metadata")
    named = metadata.get("category") if isinstance(metadata, Mapping) else None
    known = isinstance(named, str) and (named in CATEGORIES or named in config.categories)
    return named if known else None


def max_output_tokens(body: Mapping[str, Any], api: Api) -> int | None:
    """The client's own limit, or the API's when it has a default. None: up to the context."""
    for limit in (body.get("max_completion_tokens"), body.get("max_tokens")):
        if isinstance(limit, int) and limit >= 1:
            return limit
    return COMPLETIONS_MAX_TOKENS if api is Api.COMPLETIONS else None
