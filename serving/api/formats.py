"""Turns the body of each endpoint that asks a model into one canonical form."""

from typing import Any

from routing.records import RequestedModel
from serving.api.chat import ChatCompletionBody, chat_call
from serving.api.completions import CompletionBody, completion_call
from serving.errors import NotFound


def requested_model(body: ChatCompletionBody | CompletionBody) -> RequestedModel:
    """The model the client asks for. Raises NotFound, as OpenAI does for a model it does not have."""
    try:
        return RequestedModel(body.model)
    except ValueError as error:
        known = ", ".join(f"'{m.value}'" for m in RequestedModel)
        raise NotFound(f"The model does not exist here; use one of {known}.", param="model") from error


def to_call_body(body: ChatCompletionBody | CompletionBody) -> dict[str, Any]:
    """The body in one canonical form for tier 1, the frontier and the tokenizer (see Call.body).

    model, stream, stream_options and absent fields are left out.
    stop: a list.
    messages: each content is a string, "" where there is none.
    max_completion_tokens: the output limit of a chat.
    max_tokens: the output limit of a completion, always present.
    prompt: of a completion, a string or a flat list of token ids.
    """
    return chat_call(body) if isinstance(body, ChatCompletionBody) else completion_call(body)
