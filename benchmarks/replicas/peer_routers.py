"""Other projects' routers before vLLM's own servers, which are told what our stack tells its engines."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.load.client import new_session
from benchmarks.load.process import process, until_up
from benchmarks.load.targets import BLOCK_TOKENS, START_TIMEOUT_S, Target, engines, free_port

# Name -> the command in --peers and its policy.
PEERS = {
    "vllm_router_cache_aware": ("vllm-router", "cache_aware"),
    "vllm_router_kv_aware": ("vllm-router", "kv_aware"),
    "sglang_router_cache_aware": ("smg", "cache_aware"),
}


@contextlib.contextmanager
def bare_engines(model: Path, cache_tokens: int, replicas: int) -> Iterator[list[str]]:
    """OpenAI servers around the same engines. Their base URLs."""
    ports = [free_port() for _ in range(replicas)]
    with contextlib.ExitStack() as servers:
        for ready in [servers.enter_context(bare_engine(model, cache_tokens, port)) for port in ports]:
            ready()
        yield [f"http://127.0.0.1:{port}" for port in ports]


@contextlib.contextmanager
def peer(name: str, folder: Path, urls: list[str], model: str) -> Iterator[Target]:
    """Another project's router in front of servers whose caches are empty."""
    asyncio.run(reset_caches(urls))
    command, policy = PEERS[name]
    options = event_options(urls, model) if policy == "kv_aware" else []
    with router(folder / command, policy, urls, model, options) as target:
        yield target


@contextlib.contextmanager
def router(
    command: Path, policy: str, urls: Sequence[str], model: str, options: Sequence[str] = ()
) -> Iterator[Target]:
    """vllm-router or sglang-router (`smg`) in front of servers. They take the same options."""
    port = free_port()
    flags = {
        "host": "127.0.0.1",
        "port": port,
        "policy": policy,
        "prometheus-host": "127.0.0.1",
        "prometheus-port": free_port(),
    }
    words = [str(command), *(["launch"] if command.name == "smg" else [])]
    words += [*(f"--{flag}={value}" for flag, value in flags.items()), *options, "--worker-urls", *urls]
    url = f"http://127.0.0.1:{port}"
    with process(words, f"{url}/v1/models"):
        yield Target(url, model)


@contextlib.contextmanager
def bare_engine(model: Path, cache_tokens: int, port: int) -> Iterator[Callable[[], None]]:
    """vLLM's own server, told what our stack tells its engines. Yields a call that waits until it is up."""
    settings = engines(model, 1, cache_tokens)
    events = {"enable_kv_cache_events": True, "endpoint": "tcp://*:0", "replay_endpoint": "tcp://*:0"}
    flags = {
        "model": settings["model"],
        "host": "127.0.0.1",
        "port": port,
        "max-model-len": settings["max_context_tokens"],
        "max-num-seqs": settings["max_concurrent_requests"],
        "max-num-batched-tokens": settings["step_tokens"],
        "kv-cache-memory-bytes": int(settings["kv_cache_gib"] * 2**30),
        "block-size": BLOCK_TOKENS,
        "distributed-executor-backend": "uni",
        "kv-events-config": json.dumps(events),
    }
    env = {
        "VLLM_HOST_IP": "127.0.0.1",  # where its events go
        "VLLM_SERVER_DEV_MODE": "1",  # for /reset_prefix_cache
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(settings["cpu_threads"]),
        "OMP_WAIT_POLICY": "PASSIVE",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    }
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += ["--enable-prompt-tokens-details", *(f"--{name}={value}" for name, value in flags.items())]
    with process_soon(command, f"http://127.0.0.1:{port}/health", env) as wait:
        yield wait


@contextlib.contextmanager
def process_soon(command: list[str], url: str, env: dict[str, str]) -> Iterator[Callable[[], None]]:
    """As `process`, but several can start at once: yields a call that waits until it is up."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True, env={**os.environ, **env})
    try:
        yield lambda: asyncio.run(until_up(child, url, START_TIMEOUT_S))
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()


def event_options(urls: list[str], model: str) -> list[str]:
    """Tell vllm-router where the engines publish what they cache."""
    options = ["--kv-event-block-size", str(BLOCK_TOKENS), "--kv-event-model", model]
    for url, source in zip(urls, asyncio.run(event_sources(urls)), strict=True):
        options += ["--kv-event-source", f"{url}={source['endpoint']}"]
        options += ["--kv-event-replay-source", f"{url}={source['replay_endpoint']}"]
    return options


async def event_sources(urls: list[str]) -> list[dict[str, Any]]:
    """Where each server publishes."""
    async with new_session(30) as session:
        return [next(iter((await answer(session, f"{url}/kv_event_sources")).values())) for url in urls]


async def answer(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """A JSON document."""
    async with session.get(url) as reply:
        document: dict[str, Any] = await reply.json()
        return document


async def reset_caches(urls: list[str]) -> None:
    """Let every server forget what it has cached."""
    async with new_session(30) as session:
        for url in urls:
            async with session.post(f"{url}/reset_prefix_cache") as reply:
                reply.raise_for_status()
