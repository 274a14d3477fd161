"""The endpoints that ask a model: which body each reads, and the one form that all become."""

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
    """The body in one canonical form for tier 1, the frontier and the tokenizer; see Call.body.

    Without model, stream and stream_options. Absent fields are left out; `stop` is a list; message contents are
    strings ("" where there is none); the output limit is `max_completion_tokens` for chat and always present as
    `max_tokens` for completions; a completions `prompt` is a string or a flat list of token ids.
    """
    return chat_call(body) if isinstance(body, ChatCompletionBody) else completion_call(body)
