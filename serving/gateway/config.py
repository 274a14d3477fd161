"""Where the gateway listens and what it accepts."""

from pathlib import Path

from pydantic import Field

from routing.records import Record
from serving.api.fields import WireLimits


class GatewayConfig(Record):
    """Where the stack listens, and which requests it refuses before it reads them."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    max_body_bytes: int = Field(10 * 2**20, ge=1024)
    max_concurrent_requests: int = Field(256, ge=1, description="answered at once by one gateway process, then 429")
    request_deadline_s: float = Field(300, gt=0, description="nobody waits longer for one answer")
    probe_ttl_s: float = Field(10, ge=0, description="how long a readiness probe's result is reused")
    probe_timeout_s: float = Field(30, gt=0)
    replicas: int = Field(1, ge=1, description="gateway processes")
    num_cpus: float = Field(
        0, ge=0, description="Ray's logical CPUs per process, for placement only: Ray spreads what asks for some"
    )
    max_replicas_per_node: int | None = Field(
        None, ge=1, le=100, description="gateway processes on one node, further ones wait until a node has room"
    )
    drain_s: float = Field(20, gt=0, description="how long a gateway that is replaced may finish its requests")
    keys_file: Path | None = Field(None, description="hashed API keys, required when host is not loopback")
    secret_file: Path = Field(Path(".cache/tierwise/secret"), description="secret that tenants' salts are derived from")
    wire: WireLimits = WireLimits()
