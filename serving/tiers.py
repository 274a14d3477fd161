"""What a tier is to the cascade: one call in, frames out.

The Ray-backed tiers (serving/ray_tiers.py), the frontier client (serving/frontier/) and the scripted tiers of the
journey tests implement the same three protocols, so `cascade.py` is the same code in production and under test.
"""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from routing.records import Api, ReplicaChoice, RequestedModel, RequestFeatures, ToolCall, Usage
from serving.payloads import Adapter

if TYPE_CHECKING:
    from serving.trace import RequestTrace


@dataclass(frozen=True, slots=True)
class Call:
    """One accepted request on its way through the cascade; validated, tokenized, never changed.

    body: the client's OpenAI body after the allow-list (serving/openai_schema.py), without `model`, `stream` and
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


@dataclass(frozen=True, slots=True)
class Frame:
    """One step of an answer, in the client's own wire format plus what the gate needs to see.

    data: JSON text of an OpenAI chunk (stream) or of the whole response (not stream); None: evidence only, nothing to
        send. Never contains the SSE framing, never `[DONE]`. A usage-only chunk (choices == []) carries usage.
    choice: index of the choice that text and logprobs belong to.
    text: newly generated visible text, "" when none.
    logprobs: natural-log probability of each new token, shape (new tokens,); empty when the source does not report.
    n_tokens: number of newly generated tokens in this frame; 0 for providers that do not say.
    finish_reason: set on the frame that finishes `choice`.
    tool_calls: complete tool calls of `choice`, on the frame that finishes it.
    usage, engine_s, replica_id, model: set at the latest on the last frame.
    replica_choice: on the first frame of a tier 1 that chose among several replicas.
    """

    data: str | None = None
    choice: int = 0
    text: str = ""
    logprobs: tuple[float, ...] = ()
    n_tokens: int = 0
    finish_reason: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None
    engine_s: float | None = None
    replica_id: str | None = None
    model: str | None = None
    replica_choice: ReplicaChoice | None = None


@dataclass(frozen=True, slots=True)
class EngineStats:
    """One replica's load, as vLLM's scheduler last reported it. kv_usage_ratio: KV blocks in use, 0..1."""

    replica_id: str
    running: int
    waiting: int
    kv_usage_ratio: float
    generated_tokens: int
    prompt_tokens_queried: int
    prompt_tokens_cached: int
    busy_s: float


@dataclass(frozen=True, slots=True)
class RouterScore:
    """The router model's answer to one score or judge prompt.

    p_yes: probability of the positive label among both labels, 0..1 (high = tier 1 will do / the draft is good).
    """

    p_yes: float
    usage: Usage
    engine_s: float | None = None
    replica_id: str | None = None
    model: str = "router"


class RouterModel(Protocol):
    """Scores; one token of output, its instruction prefix cached."""

    model: str

    async def score(self, call: Call) -> RouterScore:
        """p(tier 1 will do). Raises RouterFailed, QueueFull."""
        ...

    async def judge(self, call: Call, draft: str) -> RouterScore:
        """p(the draft answers the request). Raises RouterFailed, QueueFull."""
        ...

    async def probe(self) -> None:
        """Generate one token. Raises RouterFailed when the engine cannot."""
        ...

    async def stats(self) -> EngineStats:
        """The load of one replica. Raises RouterFailed when it does not answer."""
        ...


class DraftEngine(Protocol):
    """Tier 1. Closing the generator (or cancelling its consumer) aborts the request in the engine."""

    model: str
    max_context_tokens: int

    def draft(self, call: Call) -> AsyncGenerator[Frame, None]:
        """Generate. call.stream decides whether frames carry chunks or, last, one whole body; both carry evidence.

        Raises Tier1Failed (engine dead or erroring), QueueFull (admission limit), InvalidRequest (the engine refused
        the parameters) - also mid-way.
        """
        ...

    async def load_adapter(self, adapter: Adapter) -> str | None:
        """Have an adapter ready on every replica; why not, when one refuses it. Raises Tier1Failed: nobody answers."""
        ...

    async def probe(self) -> None:
        """Generate one token. Raises Tier1Failed when the engine cannot."""
        ...

    async def stats(self) -> EngineStats:
        """The load of one replica. Raises Tier1Failed when it does not answer."""
        ...


class FrontierModel(Protocol):
    """The frontier: providers in order behind one retry budget, one deadline and a breaker each."""

    model: str
    max_context_tokens: int

    def complete(self, call: Call, trace: "RequestTrace") -> AsyncGenerator[Frame, None]:
        """Answer; every try is booked on the trace. The first frame comes after the provider's first content.

        Raises FrontierUnavailable, FrontierRateLimited, FrontierRejected, DeadlineExceeded before the first frame,
        StreamBroken after it. Closing the generator closes the provider's connection.
        """
        ...

    async def probe(self) -> None:
        """Generate one token with the first provider whose breaker is closed. Raises FrontierUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Tiers:
    """The three tiers a stack is made of; router is None when the profile has none."""

    router: RouterModel | None
    tier1: DraftEngine
    frontier: FrontierModel
    labels: dict[str, str] = field(default_factory=dict)
