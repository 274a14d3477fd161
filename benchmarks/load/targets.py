"""What a benchmark sends its requests to: the whole stack around small engines, on ports of loopback that are free."""

import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.load.client import new_session, request
from benchmarks.load.process import process
from benchmarks.load.tiny_model import Shape

NOOP_PROFILE = "deploy/profiles/noop.yaml"
TOKENIZER = Path(".cache/tierwise/models/qwen2.5-coder-0.5b-instruct")
# 30M parameters, of which 22M are the embedding: prompts cost enough to notice, three engines fit on two cores.
SHAPE = Shape(hidden_size=256, layers=6, heads=4, kv_heads=4)
BLOCK_TOKENS = 32
START_TIMEOUT_S = 400.0


class Target(NamedTuple):
    """Something that answers chat completions."""

    url: str
    model: str


def chat(model: str, messages: list[dict[str, str]], output_tokens: int) -> dict[str, Any]:
    """A streamed request that says how much of it was cached."""
    return {
        "model": model,
        "messages": messages,
        "max_tokens": output_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def engines(model: Path, replicas: int, cache_tokens: int) -> dict[str, Any]:
    """`tier1` of a profile."""
    return {
        "model": str(model),
        "engine": "vllm",
        "replicas": replicas,
        "max_context_tokens": 4096,
        "max_concurrent_requests": 8,
        "max_queued_requests": 128,
        "kv_cache_gib": cache_gib(model, cache_tokens),
        "block_size_tokens": BLOCK_TOKENS,
        "step_tokens": 1024,
        "cpu_threads": 1,
        "enforce_eager": True,
    }


def cache_gib(model: Path, cache_tokens: int) -> float:
    """Memory for so many tokens: keys and values of two bytes for every layer and KV head."""
    shape = json.loads((model / "config.json").read_text())
    head_size = shape.get("head_dim") or shape["hidden_size"] // shape["num_attention_heads"]
    per_token = 2 * 2 * shape["num_hidden_layers"] * shape["num_key_value_heads"] * head_size
    return float(cache_tokens * per_token / 2**30)


@contextlib.contextmanager
def stack(scratch: Path, policy: str, tier1: dict[str, Any], ingress: int = 1) -> Iterator[Target]:
    """The whole stack with several replicas of tier 1 and so many gateways. Its frontier is never reached."""
    port = free_port()
    overrides: dict[str, Any] = {
        "GATEWAY__PORT": port,
        "GATEWAY__REPLICAS": ingress,
        "GATEWAY__SECRET_FILE": str(scratch / "secret"),
        "LEDGER__URL": f"sqlite:///{scratch}/ledger-{port}.sqlite3",
        "ROUTER": None,
        "TIER1": {**tier1, "replica_routing": {"policy": policy}},
    }
    env = {f"STACK_{name}": json.dumps(value) for name, value in overrides.items()}
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "serving", "serve", NOOP_PROFILE]
    with process(command, f"{url}/healthz", env, START_TIMEOUT_S):
        target = Target(url, "tier1")
        asyncio.run(until_answers(target))
        yield target


async def until_answers(target: Target) -> None:
    """/healthz speaks for the gateway alone. A token says that an engine is there."""
    body = {"model": target.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    give_up = time.perf_counter() + START_TIMEOUT_S
    async with new_session(60) as session:
        while (sample := await request(session, f"{target.url}/v1/chat/completions", body)).error is not None:
            if time.perf_counter() > give_up:
                raise SystemExit(f"{target.url} does not answer: {sample.error}")
            await asyncio.sleep(0.5)


def free_port() -> int:
    """A port of loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
