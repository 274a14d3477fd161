"""The body of POST /v1/completions."""

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from serving.api.chat_messages import Text, text_or
from serving.api.fields import SamplingBody, WireLimits, check_sampling, validate
from serving.api.json_body import parse_body
from serving.errors import InvalidRequest

COMPLETION_MAX_TOKENS = 16  # what OpenAI takes when a completions request does not say
Prompt = Annotated[
    Annotated[Text, Tag("=text")] | Annotated[list[Any], Tag("=other")],
    text_or(list, "an array of one string or of token ids"),
]


class CompletionBody(SamplingBody):
    """POST /v1/completions, one prompt a request."""

    prompt: Prompt
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: Literal[1] | None = None
    echo: Literal[False] | None = None
    suffix: None = None


def read_completion(raw: bytes, limits: WireLimits, vocab_size: int) -> CompletionBody:
    """A validated body of /v1/completions. Raises InvalidRequest with the dotted path of the field."""
    body = validate(CompletionBody, parse_body(raw))
    check_sampling(body, limits, vocab_size)
    _prompt(body.prompt, limits.max_prompt_token_ids, vocab_size)
    return body


def _prompt(prompt: str | list[Any], max_ids: int, vocab_size: int) -> str | list[int]:
    """One prompt, as text or token ids, out of OpenAI's four ways to write it."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    if isinstance(prompt, str):
        if not prompt:
            raise InvalidRequest("'prompt' is empty.", param="prompt")
        if "\x00" in prompt:
            raise InvalidRequest("'prompt' contains a NUL character.", param="prompt")
        return prompt
    if not prompt or len(prompt) > max_ids or not all(type(i) is int and 0 <= i < vocab_size for i in prompt):
        raise InvalidRequest(
            "One prompt per request: 'prompt' must be a string, a list of one string, or a list of 1 to "
            f"{max_ids} token ids below {vocab_size}.",
            param="prompt",
        )
    return prompt


def completion_call(body: CompletionBody) -> dict[str, Any]:
    """The canonical body of a completion (see `formats.to_call_body`)."""
    prompt = body.prompt
    if isinstance(prompt, list) and isinstance(prompt[0], str | list):
        prompt = prompt[0]
    call = {"prompt": prompt, "max_tokens": body.max_tokens or COMPLETION_MAX_TOKENS, **body.sampling_fields()}
    if body.logprobs is not None:
        call["logprobs"] = body.logprobs
    return call
