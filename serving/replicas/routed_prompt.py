"""What the choice of a replica needs to know of a request."""

from collections.abc import Sequence
from typing import NamedTuple

from serving.request.payloads import DraftPayload


class RoutedPrompt(NamedTuple):
    """What a tracker has to know of a request. The engine gets all of it as well."""

    request_id: str
    prompt_token_ids: Sequence[int]
    cache_salt: str
    session_id: str | None
    lora_name: str | None = None


def routed_prompt(payload: DraftPayload) -> RoutedPrompt:
    """What a tracker has to know of a draft. Its adapter is part of the keys of its KV blocks."""
    lora_name = None if payload.adapter is None else payload.adapter.served_as
    return RoutedPrompt(payload.request_id, payload.prompt_token_ids, payload.cache_salt, payload.session_id, lora_name)
