"""The peers section: what else a user could put in front of an engine, in the same rounds on the same engine.

Gateways stand in front of one vLLM server. Ours does so as its frontier, and with tier 1 has an engine of its own that
is told the same. Ray Serve LLM brings its own engine, too. The model is small, so that what is around the engine shows.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import yaml
from tqdm import tqdm

from benchmarks.load.client import Sample, closed_loop, new_session, quantile, request
from benchmarks.load.figures import figures
from benchmarks.load.process import process
from benchmarks.load.targets import START_TIMEOUT_S, Target, chat, free_port, until_answers
from benchmarks.load.text_table import columns, number, spread
from benchmarks.replicas.peer_routers import router
from benchmarks.run.lab import Lab, Labs, tiny_tier1
from benchmarks.run.plan import Plan
from benchmarks.run.spread import arms_order, over_rounds, ratios
from benchmarks.sections.engine import Cell

BARE = "bare vLLM"
# What each does between client and engine, which its cost has to be read beside.
DOES = {
    BARE: "the engine's own server",
    "tierwise, tier1": "keys, limits, schema, ledger, cancellation; engine on Ray Serve",
    "tierwise, frontier": "the same, as a provider's client with retries and breaker",
    "vllm-router": "picks a replica",
    "sglang-router": "picks a replica by its model of the caches",
    "litellm": "keys, one API for many providers, cost tracking",
    "ray serve llm": "engine on Ray Serve behind an OpenAI ingress",
}
ROUNDS = 3
SINGLE_REQUESTS = 30
LOADED = Cell("short", 48, 32, 8, 32)


def measure(plan: Plan, labs: Labs) -> dict[str, Any]:
    """One row a gateway, and one with its ratio to the bare engine. What does not start is named with its reason."""
    lab = labs.enter("tiny")
    not_started: dict[str, str] = {}
    with contextlib.ExitStack() as running:
        targets = {"tierwise, tier1": lab.tier1}
        if lab.direct is not None:
            targets = {BARE: lab.direct, **targets}
            if lab.behind is not None:
                targets["tierwise, frontier"] = lab.behind
            for name, start in starters(plan, lab).items():
                try:
                    targets[name] = running.enter_context(start)
                except (SystemExit, OSError) as error:
                    not_started[name] = str(error)[:300]
        rows = asyncio.run(measure_targets(targets, plan, lab))
    return {"rows": rows, "not_started": not_started, "versions": peer_versions(plan.peers)}


def starters(plan: Plan, lab: Lab) -> dict[str, contextlib.AbstractContextManager[Target]]:
    """Every peer that can be tried here, not yet started."""
    assert lab.direct is not None
    found: dict[str, contextlib.AbstractContextManager[Target]] = {}
    if plan.peers is not None:
        found |= {
            "vllm-router": proxy(plan.peers / "vllm-router", "round_robin", lab.direct),
            "sglang-router": proxy(plan.peers / "smg", "cache_aware", lab.direct),
            "litellm": litellm(plan.peers, plan.scratch, lab.direct),
        }
    return found | {"ray serve llm": ray_serve_llm(plan)}


@contextlib.contextmanager
def proxy(command: Path, policy: str, engine: Target) -> Iterator[Target]:
    """A router with one server to choose."""
    with router(command, policy, [engine.url], engine.model) as target:
        yield answering(target)


@contextlib.contextmanager
def litellm(folder: Path, scratch: Path, engine: Target) -> Iterator[Target]:
    """LiteLLM's proxy with one model. Its price list is the one it brought along."""
    port = free_port()
    params = {"model": f"openai/{engine.model}", "api_base": f"{engine.url}/v1", "api_key": "none"}
    config = {"model_list": [{"model_name": "engine", "litellm_params": params}]}
    path = scratch / "litellm.yaml"
    path.write_text(yaml.safe_dump(config), "utf-8")
    command = [str(folder / "litellm"), "--config", str(path), "--host", "127.0.0.1", "--port", str(port)]
    env = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_TELEMETRY": "False",
        # It listens on loopback for the length of this run; without a key it does not start otherwise.
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    }
    url = f"http://127.0.0.1:{port}"
    with process([*command, "--telemetry", "False"], f"{url}/health/liveliness", env):
        yield answering(Target(url, "engine"))


@contextlib.contextmanager
def ray_serve_llm(plan: Plan) -> Iterator[Target]:
    """Ray Serve LLM with an engine of the same settings. On a CPU it insists on a worker process beside the engine."""
    settings = tiny_tier1(plan)
    document = {
        "model_id": "engine",
        "model_source": settings["model"],
        "gpu": plan.gpu,
        "engine_kwargs": {
            "max_model_len": settings["max_context_tokens"],
            "max_num_seqs": settings["max_concurrent_requests"],
            "max_num_batched_tokens": settings["step_tokens"],
            "kv_cache_memory_bytes": int(settings["kv_cache_gib"] * 2**30),
            "block_size": settings["block_size_tokens"],
            **{name: settings[name] for name in ("enforce_eager",) if name in settings},
            **({"gpu_memory_utilization": settings["gpu_memory_fraction"]} if plan.gpu else {}),
        },
    }
    env = {
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(settings.get("cpu_threads", 1)),
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "benchmarks.sections.ray_llm_app", str(port), json.dumps(document)]
    with process(command, f"{url}/v1/models", env, START_TIMEOUT_S):
        yield answering(Target(url, "engine"))


def answering(target: Target) -> Target:
    """The target once it has generated a token."""
    asyncio.run(until_answers(target))
    return target


async def measure_targets(targets: dict[str, Target], plan: Plan, lab: Lab) -> list[dict[str, Any]]:
    """Rounds in which all take turns: single requests for the added latency, then streams at once for throughput."""
    seen: dict[str, list[dict[str, float | None]]] = {name: [] for name in targets}
    rounds_wanted = min(plan.rounds, ROUNDS)
    async with new_session() as session:
        with tqdm(total=(rounds_wanted + 1) * len(targets), desc="peers", unit="round", file=sys.stderr) as bar:
            for round_number in range(rounds_wanted + 1):  # round 0 warms up and is thrown away
                for name in arms_order(list(targets), round_number):
                    found = await measure_round(session, targets[name], f"{plan.seed} {round_number} {name}", lab)
                    if round_number:
                        seen[name].append(found)
                    bar.update()
    rows = [{"row": name, "does": DOES[name], **over_rounds(rounds)} for name, rounds in seen.items()]
    if BARE in seen:
        rows += [
            {"row": f"{name} / {BARE}", "of": name, **over_rounds(against(rounds, seen[BARE]))}
            for name, rounds in seen.items()
            if name != BARE
        ]
    return rows


async def measure_round(session: aiohttp.ClientSession, target: Target, seed: str, lab: Lab) -> dict[str, float | None]:
    """One target: one token at a time, then streams."""
    url = f"{target.url}/v1/chat/completions"
    singles = Cell("single", 48, 1, 1, SINGLE_REQUESTS).prompts(f"{seed} single")
    streams = LOADED.prompts(f"{seed} streams")

    async def ask_one(place: int) -> Sample:
        body = {"model": target.model, "messages": singles[place], "max_tokens": 1, "temperature": 0}
        return await request(session, url, body)

    async def ask_stream(place: int) -> Sample:
        return await request(session, url, chat(target.model, streams[place], LOADED.output_tokens))

    whole, _ = await closed_loop(ask_one, requests=len(singles), concurrency=1)
    loaded, wall_s = await closed_loop(ask_stream, requests=len(streams), concurrency=LOADED.concurrency)
    found = figures(loaded, wall_s, lab.slo)
    single = [s.e2e_s for s in whole if s.error is None and s.e2e_s is not None]
    failed = sum(s.error is not None for s in (*whole, *loaded))
    return {
        "single_p50_s": quantile(single, 0.5),
        "single_p99_s": quantile(single, 0.99),
        **found,
        "failed": float(failed),
    }


def against(
    rounds: list[dict[str, float | None]], bare: list[dict[str, float | None]]
) -> list[dict[str, float | None]]:
    """What a gateway adds to a single request, and its throughput as a share, round by round."""
    throughput = ratios(rounds, bare, "output_tps")
    return [
        {
            "single_added_s": None if (a := r["single_p50_s"]) is None or (b := o["single_p50_s"]) is None else a - b,
            "ttft_added_s": None if (c := r["ttft_p50_s"]) is None or (d := o["ttft_p50_s"]) is None else c - d,
            "output_tps_ratio": ratio,
        }
        for r, o, ratio in zip(rounds, bare, throughput, strict=True)
    ]


def peer_versions(folder: Path | None) -> dict[str, str]:
    """Versions of the peers in their own environment."""
    if folder is None:
        return {}
    found = {}
    for name in ("litellm", "vllm_router", "sglang_router"):
        for place in folder.parent.glob(f"lib/python*/site-packages/{name}-*.dist-info"):
            found[name] = place.name.removeprefix(f"{name}-").removesuffix(".dist-info")
    return found


def table(found: dict[str, Any]) -> str:
    """One line a gateway. Times in milliseconds. The last columns are over the bare engine in the same round."""
    head = (
        "gateway",
        "1 token p50/p99 ms",
        "added ms",
        "TTFT p50 ms at 8",
        "added ms",
        "tokens/s",
        "of bare",
        "failed",
    )
    over = {row["of"]: row for row in found["rows"] if "of" in row}
    lines = []
    for row in found["rows"]:
        if "of" in row:
            continue
        added = over.get(row["row"], {})
        lines.append(
            (
                row["row"],
                f"{number(row['single_p50_s'], 1, 1e-3)} / {number(row['single_p99_s'], 1, 1e-3)}",
                spread(added, "single_added_s", 1, 1e-3),
                number(row["ttft_p50_s"], 1, 1e-3),
                spread(added, "ttft_added_s", 1, 1e-3),
                spread(row, "output_tps", 0),
                spread(added, "output_tps_ratio", 3),
                number(row["failed"], 0),
            )
        )
    notes = [f"{name}: {does}" for name, does in DOES.items() if any(row["row"] == name for row in found["rows"])]
    notes += [f"{name} did not start: {reason}" for name, reason in found["not_started"].items()]
    if not found["versions"]:
        notes.append("litellm, vllm-router and sglang-router: not installed (`make bench-peers`)")
    return "\n".join([columns(head, lines), "", *notes])


def plot(found: dict[str, Any], path: Path) -> None:
    """Added latency and throughput of every gateway."""
    from benchmarks.run.plots import bars  # noqa: PLC0415 - matplotlib is an extra

    rows = [row for row in found["rows"] if "of" not in row]
    bars(path, rows, {"single_p50_s": "one token, p50, s", "output_tps": "output tokens/s, 8 streams"})
