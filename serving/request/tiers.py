"""The protocols that a tier implements for the cascade: one call in, frames out.

The Ray-backed tiers (serving/engine/client.py), the hosted models (serving/hosted/) and the scripted tiers of the
journey tests implement the same three protocols, so `cascade/answer.py` is the same code in production and under test.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from serving.request.call import Adapter, Call
from serving.request.frame import Frame, RouterScore

if TYPE_CHECKING:
    from serving.request.trace import RequestTrace


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


class RouterModel(Protocol):
    """Scores requests and drafts. It generates one token, and its instruction prefix is cached."""

    model: str

    async def score(self, call: Call) -> RouterScore:
        """p(tier 1 is good enough). Raises RouterFailed, QueueFull."""
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
        """Generate. With call.stream frames carry chunks, else the last one carries the whole body.

        Both kinds carry evidence.
        Raises Tier1Failed (engine dead or erroring), QueueFull (admission limit), InvalidRequest (the engine refused
        the parameters), also after some frames.
        """
        ...

    async def load_adapter(self, adapter: Adapter) -> str | None:
        """Load an adapter on every replica. Returns why a replica refuses it, None when all have it.

        Raises Tier1Failed when no replica answers.
        """
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
        """Answer. Every try is booked on the trace. The first frame comes after the provider's first content.

        Raises FrontierUnavailable, FrontierRateLimited, FrontierRejected, DeadlineExceeded before the first frame,
        StreamBroken after it. Closing the generator closes the provider's connection.
        """
        ...

    async def probe(self) -> None:
        """Generate one token with the first provider whose breaker is closed. Raises FrontierUnavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Tiers:
    """The three tiers of a stack. `router` is None when the profile has none."""

    router: RouterModel | None
    tier1: DraftEngine
    frontier: FrontierModel
