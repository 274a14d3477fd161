"""One accepted request on its way through the cascade."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from routing.records import Api, RequestedModel, RequestFeatures


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter of tier 1 that was checked (serving/engine/adapters.py).

    served_as: MODEL:NAME@VERSION, the model's name with this adapter in answers, ledger rows, the engine and KV blocks.
    files_sha256: of all its files. The replica checks it again before the engine reads them.
    """

    served_as: str
    folder: str
    files_sha256: str


@dataclass(frozen=True, slots=True)
class Call:
    """One accepted request on its way through the cascade. It is validated and tokenized, and never changed.

    body: the client's OpenAI body after the allow-list (serving/api/fields.py), without `model`, `stream` and
        `stream_options`. Text contents are flattened to strings. Requests to engines and providers are built from it.
    prompt_token_ids: tier 1's rendering of the prompt, shape (features.input_tokens,). It is tokenized only once.
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
    capped_model: RequestedModel | None = None  # replaces `model` where a budget says so
    adapter: Adapter | None = None  # chosen by the request's category

    @property
    def target(self) -> RequestedModel:
        """The model name that the policy reads."""
        return self.capped_model or self.model
