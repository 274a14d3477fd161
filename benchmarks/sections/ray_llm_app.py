"""Ray Serve LLM's own ingress around a vLLM engine, as its documentation builds it, for `benchmarks/sections/peers.py`.

Run as a process of its own: `python -m benchmarks.sections.ray_llm_app PORT SETTINGS`. SETTINGS are JSON with
`model_id`, `model_source` and vLLM's `engine_kwargs`. One replica at Ray's defaults, so power of two has nothing to
choose. Its prefix-affinity router is measured on several by `replicas --live --targets ray_prefix_affinity`. It listens
on loopback only.
"""

import json
import os
import signal
import sys
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # keep to loopback, as the stack does

import ray
from ray import serve
from ray.serve.config import HTTPOptions


def app(settings: dict[str, Any]) -> Any:
    """The documented builder. What is not about the engine stays at Ray's defaults."""
    from ray.serve.llm import LLMConfig, build_openai_app  # noqa: PLC0415 - after Ray has started

    config = LLMConfig(
        model_loading_config={"model_id": settings["model_id"], "model_source": settings["model_source"]},
        engine_kwargs=settings["engine_kwargs"],
        deployment_config={"num_replicas": 1},
        **({} if settings.get("gpu") else {"accelerator_config": {"kind": "cpu"}}),
    )
    return build_openai_app({"llm_configs": [config]})


def main(port: int, settings: dict[str, Any]) -> None:
    """Serve until SIGTERM."""
    ray.init(
        address="local",
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        log_to_driver=False,
        num_cpus=max(4, os.cpu_count() or 1),  # logical ones, for placement; the engine's threads are its own matter
    )
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port))
    serve.run(app(settings), name="llm", route_prefix="/")
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]))
