"""What a profile may say of an engine, and what vLLM is told of it."""

import json
from typing import Any

import pytest

from serving.engine.config import EngineConfig


def config(**values: Any) -> EngineConfig:
    return EngineConfig.model_validate({"model": "m", "model_path": "/w", **values})


def test_config_refuses_a_misspelled_key() -> None:
    with pytest.raises(ValueError, match="kv_cache_gb"):
        EngineConfig.model_validate({"model": "m", "kv_cache_gb": 1})


def test_one_replica_publishes_nothing() -> None:
    assert not config().routes_by_cache
    assert "kv_events_config" not in config().flags()


def test_several_replicas_publish_what_they_cache_on_the_nodes_own_address() -> None:
    """An address in place of the star would make vLLM connect; a fixed port would be one for all replicas."""
    events = json.loads(str(config(replicas=3).flags()["kv_events_config"]))
    assert events == {"enable_kv_cache_events": True, "endpoint": "tcp://*:0", "replay_endpoint": "tcp://*:0"}
    assert config(replicas=3).environment()["VLLM_HOST_IP"] == "127.0.0.1"


def test_replicas_that_autoscaling_may_start_count() -> None:
    scaled = {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 8}
    assert config(autoscaling=scaled).routes_by_cache


@pytest.mark.parametrize(
    "values",
    [
        {"replica_routing": {"policy": "power_of_two"}},
        {"replica_routing": {"policy": "ray.serve.request_router:RequestRouter"}},
        {"prefix_caching": False},
    ],
    ids=["power-of-two", "another-router", "nothing-cached"],
)
def test_engines_publish_only_for_those_who_listen(values: dict[str, Any]) -> None:
    assert not config(replicas=3, **values).routes_by_cache
    assert "kv_events_config" not in config(replicas=3, **values).flags()


def test_modelled_caches_need_no_events() -> None:
    modelled = config(replicas=3, replica_routing={"kv_events": False})
    assert modelled.routes_by_cache
    assert "kv_events_config" not in modelled.flags()


def test_misspelled_policy_stops_the_start() -> None:
    with pytest.raises(ValueError, match="policy"):
        config(replica_routing={"policy": "kv-aware"})
