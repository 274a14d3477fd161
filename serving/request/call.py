"""One accepted request on its way through the cascade."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from routing.records import Api, RequestedModel, RequestFeatures


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter of tier 1 that was checked (serving/engine/adapters.py).

    served_as: MODEL:NAME@VERSION, what answers, ledger rows, the engine and its KV blocks call the model with it on.
    files_sha256: of all it consists of; the replica looks again before the engine reads them.
    """

    served_as: str
    folder: str
    files_sha256: str


@dataclass(frozen=True, slots=True)
class Call:
    """One accepted request on its way through the cascade; validated, tokenized, never changed.

    body: the client's OpenAI body after the allow-list (serving/api/fields.py), without `model`, `stream` and
        `stream_options`; text contents are flattened to strings. What reaches an engine or provider is built from it.
    prompt_token_ids: tier 1's rendering of the prompt, shape (features.input_tokens,). The only tokenization there is.
    deadline: time.perf_counter() value after which nobody waits any more.
    """

    request_id: str
    tenant: str
    api: Api
    model: RequestedModel
    body: Mapping[str, Any]
    features: RequestFeatures
    prompt_token_ids: list[int]
    cache_salt: str
    deadline: float
    stream: bool = False
    include_usage: bool = False
    session_id: str | None = None
    capped_model: RequestedModel | None = None  # what a budget made of `model`
    adapter: Adapter | None = None  # what tier 1 drafts with, by the request's category

    @property
    def target(self) -> RequestedModel:
        """The model name that the policy goes by."""
        return self.capped_model or self.model
