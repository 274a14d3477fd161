"""What one ingress process holds, and the limits at its door. Built in app.py, passed to whoever answers."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from routing.cost.attempt import CostConfig
from routing.records import Api, Record, RequestRecord
from serving.budgets import Budgets
from serving.idempotency import IdempotencyStore
from serving.keys import KeyRing
from serving.learning.feedback import FeedbackDesk
from serving.learning.sampler import Sampler
from serving.ledger.writer import Ledger
from serving.openai_schema import WireLimits
from serving.release import ReleaseConfig
from serving.releases import Releases
from serving.spans import Spans
from serving.telemetry import Telemetry
from serving.tiers import Tiers


class GatewayConfig(Record):
    """Where the stack listens and what it refuses at the door."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    max_body_bytes: int = Field(10 * 2**20, ge=1024)
    max_concurrent_requests: int = Field(256, ge=1, description="answered at once by one ingress process; then 429")
    request_deadline_s: float = Field(300, gt=0, description="nobody waits longer for one answer")
    probe_ttl_s: float = Field(10, ge=0, description="how long a readiness probe's result is reused")
    probe_timeout_s: float = Field(30, gt=0)
    replicas: int = Field(1, ge=1, description="ingress processes")
    num_cpus: float = Field(
        0, ge=0, description="Ray's logical CPUs per process; for placement only: Ray spreads what asks for some"
    )
    max_replicas_per_node: int | None = Field(
        None, ge=1, le=100, description="of ingress processes; those for which no node has room wait for one"
    )
    drain_s: float = Field(20, gt=0, description="a gateway that is replaced may finish its requests for so long")
    keys_file: Path | None = Field(None, description="hashed API keys; required when host is not loopback")
    secret_file: Path = Field(Path(".cache/tierwise/secret"), description="where the tenants' salts are derived from")
    wire: WireLimits = WireLimits()


class Tokenizer(Protocol):
    """What renders a prompt into tier 1's token ids (serving/tokenizer.py)."""

    vocab_size: int

    async def render(self, api: Api, body: Mapping[str, Any], max_tokens: int | None = None) -> list[int]:
        """Ids of the whole prompt. Raises ContextLengthExceeded, InvalidRequest."""
        ...

    def count(self, text: str) -> int:
        """Tokens of one text, for usage that nobody else reports."""
        ...


@dataclass
class Stack:
    """What one ingress process holds, built once (serving/app.py) and passed in."""

    tiers: Tiers
    tokenizer: Tokenizer
    ledger: Ledger
    keys: KeyRing
    salt_secret: bytes
    releases: Releases
    release: ReleaseConfig
    gateway: GatewayConfig
    cost: CostConfig
    telemetry: Telemetry
    idempotency: IdempotencyStore
    sampler: Sampler
    feedback: FeedbackDesk
    budgets: Budgets
    close: Callable[[], Awaitable[None]]
    spans: Spans | None = None
    replica_id: str | None = None  # where several ingress processes share one address
    probes: dict[str, tuple[float, str | None]] = field(default_factory=dict)
    probe_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def settle(self, row: RequestRecord) -> None:
        """Book and count one finished request."""
        self.ledger.record(row)
        self.budgets.settle(row)
        self.telemetry.observe(row)
