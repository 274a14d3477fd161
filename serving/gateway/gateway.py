"""What one gateway process holds. It is built in app.py and passed to the routes."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from routing.cost.attempt import CostConfig
from routing.records import Api, RequestRecord
from serving.access.budgets import Budgets
from serving.access.idempotency import IdempotencyStore
from serving.access.keys import KeyRing
from serving.cascade.releases import Releases
from serving.gateway.config import GatewayConfig
from serving.gateway.response import ResponseConfig
from serving.learning.feedback import FeedbackStore
from serving.learning.sampler import Sampler
from serving.ledger.writer import Ledger
from serving.request.tiers import Tiers
from serving.telemetry.metrics import Telemetry
from serving.telemetry.spans import Spans


class Tokenizer(Protocol):
    """Renders a prompt into tier 1's token ids (serving/gateway/tokenizer.py)."""

    vocab_size: int

    async def render(self, api: Api, body: Mapping[str, Any], max_tokens: int | None = None) -> list[int]:
        """Ids of the whole prompt. Raises ContextLengthExceeded, InvalidRequest."""
        ...

    def count(self, text: str) -> int:
        """Number of tokens of one text, for answers whose provider reports no usage."""
        ...


@dataclass
class Gateway:
    """What one gateway process holds. It is built once, in serving/app.py."""

    tiers: Tiers
    tokenizer: Tokenizer
    ledger: Ledger
    keys: KeyRing
    salt_secret: bytes
    releases: Releases
    response: ResponseConfig
    config: GatewayConfig
    cost: CostConfig
    telemetry: Telemetry
    idempotency: IdempotencyStore
    sampler: Sampler
    feedback: FeedbackStore
    budgets: Budgets
    close: Callable[[], Awaitable[None]]
    spans: Spans | None = None
    replica_id: str | None = None  # where several gateway processes share one address
    probes: dict[str, tuple[float, str | None]] = field(default_factory=dict)
    probe_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def settle(self, row: RequestRecord) -> None:
        """Write the ledger row of a finished request, settle its budget and count it."""
        self.ledger.record(row)
        self.budgets.settle(row)
        self.telemetry.observe(row)
