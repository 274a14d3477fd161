"""The switches section: what each kernel switch of an engine is worth, one at a time, on vLLM's own server.

A server is started per switch with tier 1's settings and that one change, so that a difference has one cause. On a GPU
these are CUDA graphs, batching, prefix caching, chunked prefill, FP8, speculation. A CPU has compilation and threads.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from benchmarks.load.client import Sample, closed_loop, new_session, request
from benchmarks.load.figures import Slo, figures
from benchmarks.load.process import until_up
from benchmarks.load.targets import START_TIMEOUT_S, Target, chat, free_port, until_answers
from benchmarks.load.text_table import columns, number, spread
from benchmarks.load.workload import Workload
from benchmarks.run.lab import DEPLOYMENT_KEYS, GPU_SLO, REAL_SLO, Labs, real_tier1
from benchmarks.run.plan import Plan
from benchmarks.run.spread import over_rounds
from benchmarks.sections.engine import Cell

AS_CONFIGURED = "as configured"
# Name: what of the profile's engine section it changes.
CPU_SWITCHES: dict[str, dict[str, Any]] = {
    AS_CONFIGURED: {},
    "compiled": {"enforce_eager": False},
    "one thread": {"cpu_threads": 1},
    "one request at a time": {"max_concurrent_requests": 1},
    "no prefix caching": {"prefix_caching": False},
}
GPU_SWITCHES: dict[str, dict[str, Any]] = {
    AS_CONFIGURED: {},
    "no CUDA graphs": {"enforce_eager": True},
    "one request at a time": {"max_concurrent_requests": 1},
    "no prefix caching": {"prefix_caching": False},
    "no chunked prefill": {"chunked_prefill": False},
    "fp8 weights": {"weights_format": "fp8"},
    "fp8 KV cache": {"kv_cache_format": "fp8"},
    "n-gram speculation": {"speculation": {"method": "ngram", "tokens": 4}},
}
ROUNDS = 3


def measure(plan: Plan, _: Labs) -> dict[str, Any]:
    """One row a switch, and what does not start with its reason."""
    switches = GPU_SWITCHES if plan.gpu else CPU_SWITCHES
    cell = Cell("short", 256, 128, 64, 256) if plan.gpu else Cell("short", 64, 16, 8, 16)
    slo = GPU_SLO if plan.gpu else REAL_SLO
    rows = []
    not_started = {}
    for name, change in tqdm(switches.items(), desc="switches", unit="engine", file=sys.stderr):
        try:
            with server(settings_with(real_tier1(plan), change)) as target:
                found = asyncio.run(measure_switch(target, cell, slo, min(plan.rounds, ROUNDS), plan.seed))
            rows.append({"row": name, "change": change, **over_rounds(found)})
        except SystemExit as error:
            not_started[name] = str(error)[:300]
    return {"rows": rows, "not_started": not_started, "load": cell.name}


def settings_with(tier1: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Tier 1's engine with one change. Without chunked prefill a prompt must fit into one step."""
    settings = {name: value for name, value in tier1.items() if name not in DEPLOYMENT_KEYS} | change
    if settings.get("chunked_prefill") is False:
        settings["step_tokens"] = settings["max_context_tokens"]
    return settings


@contextlib.contextmanager
def server(settings: dict[str, Any]) -> Iterator[Target]:
    """vLLM's own server on a free port, started as the stack starts its stand-in. It ends when its input does."""
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "-m", "serving.engine.standin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | cpu_environment(settings),
    )
    assert child.stdin is not None
    try:
        child.stdin.write(json.dumps({**settings, "port": port}).encode() + b"\n")
        child.stdin.flush()
        asyncio.run(until_up(child, f"http://127.0.0.1:{port}/health", START_TIMEOUT_S))
        target = Target(f"http://127.0.0.1:{port}", settings["model"])
        asyncio.run(until_answers(target))
        yield target
    finally:
        child.stdin.close()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()


def cpu_environment(settings: dict[str, Any]) -> dict[str, str]:
    """What an engine on a CPU reads before it starts. Loopback for both kinds."""
    common = {"VLLM_HOST_IP": "127.0.0.1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    if (threads := settings.get("cpu_threads")) is None:
        return common
    bound = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    return common | bound | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}


async def measure_switch(target: Target, cell: Cell, slo: Slo, rounds: int, seed: int) -> list[dict[str, float | None]]:
    """Half of the requests share a system prompt, so that a prefix cache has something to keep. Round 0 warms up."""
    found = []
    async with new_session() as session:
        for round_number in range(rounds + 1):
            load = Workload(
                name="switches",
                sessions=cell.requests,
                groups=2,
                system_words=cell.input_words,
                user_words=cell.input_words,
                output_tokens=cell.output_tokens,
                seed=seed + 100 * round_number,
            )

            async def send(place: int, load: Workload = load) -> Sample:
                opening = load.opening(place) if place % 2 else []
                body = chat(target.model, [*opening, load.question(place, 0)], cell.output_tokens)
                return await request(session, f"{target.url}/v1/chat/completions", body)

            samples, wall_s = await closed_loop(send, requests=cell.requests, concurrency=cell.concurrency)
            if round_number:
                found.append(figures(samples, wall_s, slo))
    return found


def table(found: dict[str, Any]) -> str:
    """One line a switch, its throughput also over the configured one's."""
    base = next((row["output_tps"] for row in found["rows"] if row["row"] == AS_CONFIGURED), None)
    lines = [
        (
            row["row"],
            spread(row, "output_tps", 1),
            number(row["output_tps"] / base, 2) if base and row["output_tps"] else "-",
            spread(row, "ttft_p50_s", 0, 1e-3),
            number(row["tpot_p50_s"], 1, 1e-3),
            number(row["hit_rate"], 3),
            number(row["failed"], 0),
        )
        for row in found["rows"]
    ]
    head = ("switch", "tokens/s", "x", "TTFT p50 ms", "TPOT ms", "hits", "failed")
    notes = [f"{name} did not start: {reason}" for name, reason in found["not_started"].items()]
    return "\n".join([found["load"], columns(head, lines), *notes])
