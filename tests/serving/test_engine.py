"""What comes out of a handle, as our own errors; the rest of the engine is tested end to end."""

import json
import pickle
from typing import Any

import pytest
import ray.exceptions
import ray.serve.exceptions
from ray.exceptions import RayTaskError
from ray.serve.config import RequestRouterConfig

from serving.engine import EngineConfig, from_ray, request_router
from serving.errors import InvalidRequest, QueueFull, RouterFailed, Tier1Failed
from serving.replica_router import KvAwareRouter


def ray_error_classes() -> list[type[Exception]]:
    found = [*vars(ray.exceptions).values(), *vars(ray.serve.exceptions).values()]
    errors = [e for e in found if isinstance(e, type) and issubclass(e, Exception) and e is not RayTaskError]
    return sorted(set(errors), key=lambda e: e.__name__)


@pytest.mark.parametrize("theirs", ray_error_classes(), ids=lambda e: e.__name__)
def test_every_exception_of_ray_is_translated(theirs: type[Exception]) -> None:
    error = theirs.__new__(theirs)  # their constructors want a running cluster
    ours = from_ray(error, RouterFailed)
    assert type(ours) is (QueueFull if theirs is ray.serve.exceptions.BackPressureError else RouterFailed)


def remote(cause: Exception) -> RayTaskError:
    """An exception as it comes out of another process."""
    return RayTaskError("draft", "traceback of the replica", pickle.loads(pickle.dumps(cause)))


def test_error_of_the_replica_arrives_whole() -> None:
    cause = QueueFull("full", retry_after_s=2.5)
    ours = from_ray(remote(cause), Tier1Failed)
    assert (type(ours), ours.message, ours.retry_after_s) == (QueueFull, "full", 2.5)
    refusal = from_ray(remote(InvalidRequest("too hot", param="temperature")), Tier1Failed)
    assert (type(refusal), refusal.param) == (InvalidRequest, "temperature")


def test_error_sent_without_ray_around_it_arrives_too() -> None:
    cause = InvalidRequest("no", param="n")
    assert from_ray(cause, Tier1Failed) is cause


def test_failed_probe_of_the_router_is_the_routers_failure() -> None:
    assert type(from_ray(remote(Tier1Failed("the engine is dead")), RouterFailed)) is RouterFailed


def test_bug_in_the_replica_shows_its_class_and_nothing_else() -> None:
    """Fault 61: an exception's text may hold the prompt."""
    ours = from_ray(remote(KeyError("words of the user")), Tier1Failed)
    assert (type(ours), ours.message) == (Tier1Failed, "the replica failed: KeyError")


def test_config_refuses_a_misspelled_key() -> None:
    with pytest.raises(ValueError, match="kv_cache_gb"):
        EngineConfig.model_validate({"model": "m", "kv_cache_gb": 1})


# Several replicas


def config(**values: Any) -> EngineConfig:
    return EngineConfig.model_validate({"model": "m", "model_path": "/w", **values})


def test_one_replica_publishes_nothing_and_needs_no_choice() -> None:
    assert not config().routes_by_cache
    assert "kv_events_config" not in config().flags()
    assert request_router(config()) == RequestRouterConfig()


def test_several_replicas_publish_what_they_cache_on_the_nodes_own_address() -> None:
    """An address in place of the star would make vLLM connect; a fixed port would be one for all replicas."""
    events = json.loads(str(config(replicas=3).flags()["kv_events_config"]))
    assert events == {"enable_kv_cache_events": True, "endpoint": "tcp://*:0", "replay_endpoint": "tcp://*:0"}
    assert config(replicas=3).environment()["VLLM_HOST_IP"] == "127.0.0.1"
    assert request_router(config(replicas=3)).get_request_router_class() is KvAwareRouter


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
