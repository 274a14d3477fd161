"""How Serve is told to choose among an engine's replicas; the engine itself is tested end to end."""

from typing import Any

from ray.serve.config import RequestRouterConfig

from serving.engine.config import EngineConfig
from serving.engine.deployment import request_router
from serving.replicas.ray_router import KvAwareRouter


def config(**values: Any) -> EngineConfig:
    return EngineConfig.model_validate({"model": "m", "model_path": "/w", **values})


def test_one_replica_needs_no_choice() -> None:
    assert request_router(config()) == RequestRouterConfig()


def test_several_replicas_are_chosen_by_their_caches() -> None:
    assert request_router(config(replicas=3)).get_request_router_class() is KvAwareRouter


def test_router_class_may_be_named() -> None:
    named = config(replicas=3, replica_routing={"policy": "ray.serve.request_router:RequestRouter"})
    assert request_router(named).get_request_router_class().__name__ == "RequestRouter"
