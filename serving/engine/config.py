"""Config of one of our own engines on Ray Serve: replicas, admission, health, and vLLM's settings."""

import json
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from routing.records import Record
from serving.engine.vllm_flags import VllmSettings
from serving.replicas.config import ReplicaRoutingConfig

# Free ports of the address in VLLM_HOST_IP, because the events carry the users' token ids. An address in place of the
# star would make vLLM connect instead of listen.
KV_EVENTS = json.dumps({"enable_kv_cache_events": True, "endpoint": "tcp://*:0", "replay_endpoint": "tcp://*:0"})


class Autoscaling(Record):
    """How many replicas Ray Serve runs, by the requests they are answering. `replicas` is not used then."""

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(ge=1)
    target_ongoing_requests: float = Field(
        gt=0, description="per replica; keep it under max_concurrent_requests, or queues grow before replicas do"
    )
    upscale_delay_s: float = Field(10, ge=0, description="load has to last that long before replicas are added")
    downscale_delay_s: float = Field(600, ge=0, description="long, because a model takes minutes to load")
    look_back_period_s: float = Field(30, gt=10, description="load is its mean over so long; it is told every 10 s")

    @model_validator(mode="after")
    def _bounds_in_order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self


class EngineConfig(VllmSettings):
    """One of our own engines on Ray Serve: how many replicas, how much they admit, when they are unhealthy."""

    engine: Literal["vllm", "noop"] = Field(
        "vllm", description="noop: generates meaningless words at once, for benchmarks"
    )
    noop_token_s: float = Field(0, ge=0, le=60, description="noop only: pause before each token")
    replicas: int = Field(1, ge=1)
    autoscaling: Autoscaling | None = None
    drain_s: float = Field(
        20, gt=0, description="a replica that is replaced or scaled away may finish its requests for so long"
    )
    max_queued_requests: int = Field(
        32,
        ge=1,
        description="per caller; every request is queued first, so also the largest burst an idle engine takes",
    )
    num_gpus: float = Field(0, ge=0, description="per replica")
    num_cpus: float = Field(0, ge=0, description="Ray's logical CPUs per replica; for placement only")
    max_replicas_per_node: int | None = Field(
        None, ge=1, le=100, description="keeps one node from taking all, and replicas without room wait for a node"
    )
    health_period_s: float = Field(2.0, gt=0, description="how often Serve checks that the engine lives")
    probe_after_s: float = Field(15.0, gt=0, description="silence after which health means: generate one token")
    probe_timeout_s: float = Field(20.0, gt=0, description="an engine that cannot do that in time is unhealthy")
    replica_routing: ReplicaRoutingConfig = ReplicaRoutingConfig()

    @property
    def most_replicas(self) -> int:
        """How many replicas there may be at once."""
        return self.replicas if self.autoscaling is None else self.autoscaling.max_replicas

    def scaling(self) -> dict[str, Any]:
        """Serve's deployment options for the number of replicas."""
        if self.autoscaling is None:
            return {"num_replicas": self.replicas}
        return {"autoscaling_config": self.autoscaling.model_dump()}

    @model_validator(mode="after")
    def _whole_gpus_for_several(self) -> Self:
        if self.tensor_parallel > 1 and self.num_gpus != self.tensor_parallel:
            raise ValueError(f"tensor_parallel {self.tensor_parallel} needs num_gpus {self.tensor_parallel}")
        return self

    @property
    def routes_by_cache(self) -> bool:
        """Whether requests go to the replica that holds their prefix. A single replica needs no choice."""
        return self.most_replicas > 1 and self.prefix_caching and self.replica_routing.policy == "kv_aware"

    def flags(self) -> dict[str, str | int | float | bool]:
        """See VllmSettings. With several replicas each one also publishes what its cache holds."""
        events = {"kv_events_config": KV_EVENTS} if self.routes_by_cache and self.replica_routing.kv_events else {}
        return events | super().flags()
