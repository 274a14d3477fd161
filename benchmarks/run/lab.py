"""Where sections measure: a stack around one tier-1 engine, and beside it the same engine as vLLM's own server.

Both are started from one generated profile: the server is the profile's stand-in, told what tier 1 is told. It is also
the stack's frontier, so that a request can go to the very same engine process directly and through the stack.
"""

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.load.client import Sample, new_session, request
from benchmarks.load.dummy_weights import weights_or_shape
from benchmarks.load.figures import Slo
from benchmarks.load.process import process
from benchmarks.load.targets import SHAPE, START_TIMEOUT_S, TOKENIZER, Target, engines, free_port, until_answers
from benchmarks.load.tiny_model import write_model
from benchmarks.run.plan import Plan

# What concerns a deployment on Ray Serve and not the engine in it, so a plain server is not told.
DEPLOYMENT_KEYS = {
    "engine",
    "replicas",
    "autoscaling",
    "max_queued_requests",
    "drain_s",
    "num_gpus",
    "num_cpus",
    "replica_routing",
}
TINY_CACHE_TOKENS = 65_536
TINY_SLO = Slo(ttft_s=0.5, tpot_s=0.05)
REAL_SLO = Slo(ttft_s=2.0, tpot_s=0.25)
GPU_SLO = Slo(ttft_s=0.5, tpot_s=0.03)


@dataclass(frozen=True, slots=True)
class Lab:
    """What can be asked. direct: vLLM's own server. tier1: through the stack. behind: the server through the stack.

    folder: the weights and their tokenizer. None: a running stack has no such thing at hand.
    """

    name: str
    slo: Slo
    tier1: Target
    direct: Target | None
    behind: Target | None
    folder: Path | None


def lab_profile(tier1: dict[str, Any], port: int, server_port: int, scratch: Path, **gateway: Any) -> dict[str, Any]:
    """A whole profile: tier 1 with no router before it, and the same engine as a server that is its frontier."""
    server = {name: value for name, value in tier1.items() if name not in DEPLOYMENT_KEYS}
    url = f"http://127.0.0.1:{server_port}/v1"
    provider = {"name": "server", "kind": "openai", "base_url": url, "api_key": "none", "model": tier1["model"]}
    price = {"input_usd": 1, "output_usd": 1, "source": "a round number for a benchmark", "as_of": "2026-11-22"}
    return {
        "gateway": {"port": port, "secret_file": str(scratch / "secret"), **gateway},
        "tier1": tier1,
        "standin": {**server, "port": server_port},
        "frontier": {"providers": [{**provider, "max_context_tokens": tier1["max_context_tokens"]}]},
        "cost": {
            "baseline": f"server/{tier1['model']}",
            "frontier": {f"server/{tier1['model']}": price},
            "engine_usd_per_hour": {"tier1": 1},
            "engine_price_source": price["source"],
        },
        "ledger": {"url": f"sqlite:///{scratch}/ledger-{port}.sqlite3"},
    }


def tiny_tier1(plan: Plan) -> dict[str, Any]:
    """A model of random weights that leaves the machine to what is around it."""
    settings = engines(write_model(plan.scratch / "tiny-model", TOKENIZER, SHAPE), 1, TINY_CACHE_TOKENS)
    if not plan.gpu:
        return settings
    on_cpu = {"cpu_threads", "enforce_eager"}
    return {
        **{name: value for name, value in settings.items() if name not in on_cpu},
        "gpu_memory_fraction": 0.08,
        "num_gpus": 0.1,
    }


def real_tier1(plan: Plan) -> dict[str, Any]:
    """Tier 1 as the profile has it. On a GPU half of one, since the same engine's own server takes the other half."""
    profile: dict[str, Any] = yaml.safe_load(plan.profile.read_text("utf-8"))
    tier1: dict[str, Any] = profile["tier1"]
    if not plan.gpu:
        return tier1
    folder, made_up = weights_or_shape(tier1["model"], plan.scratch)
    whole = {name: value for name, value in tier1.items() if name != "kv_cache_gib"}
    filled = {"model": str(folder), "engine_args": {**tier1.get("engine_args", {}), "load_format": "dummy"}}
    return whole | {"gpu_memory_fraction": 0.42, "num_gpus": 0.5} | (filled if made_up else {})


class Labs:
    """One lab at a time, kept for the sections that measure in it. Leaving the block stops it."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._open: tuple[str, Lab] | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Labs":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop what runs."""
        self._open = None
        self._stack.close()

    def enter(self, name: str) -> Lab:
        """The lab of that name ("tiny" or "real"). Another one that is open is stopped first."""
        if self._plan.url is not None:
            return running(self._plan)
        if self._open is None or self._open[0] != name:
            self.close()
            self._open = (name, self._stack.enter_context(started(name, self._plan)))
        return self._open[1]


def running(plan: Plan) -> Lab:
    """A stack that somebody else has started."""
    assert plan.url is not None
    direct = None if plan.direct is None else Target(plan.direct, plan.direct_model or "")
    return Lab("running", REAL_SLO, Target(plan.url, "tier1"), direct, None, None)


@contextlib.contextmanager
def started(name: str, plan: Plan) -> Iterator[Lab]:
    """Start stack and server. Both have generated a token when this yields. Raises SystemExit when one does not."""
    tier1 = tiny_tier1(plan) if name == "tiny" else real_tier1(plan)
    port, server_port = free_port(), free_port()
    path = plan.scratch / f"{name}.yaml"
    path.write_text(yaml.safe_dump(lab_profile(tier1, port, server_port, plan.scratch)), "utf-8")
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "serving", "serve", str(path)]
    with process(command, f"{url}/healthz", timeout_s=START_TIMEOUT_S):
        direct = Target(f"http://127.0.0.1:{server_port}", tier1["model"])
        for target in (Target(url, "tier1"), direct, Target(url, "frontier")):
            asyncio.run(until_answers(target))
        folder = Path(tier1["model"]) if "/" in tier1["model"] else TOKENIZER.parent / tier1["model"]
        yield Lab(
            name,
            TINY_SLO if name == "tiny" else GPU_SLO if plan.gpu else REAL_SLO,
            Target(url, "tier1"),
            direct,
            Target(url, "frontier"),
            folder,
        )


async def stack_hash(url: str) -> str | None:
    """The hash of the configuration that a stack answers with."""
    body = {"model": "tier1", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    async with new_session(60) as session:
        sample: Sample = await request(session, f"{url}/v1/chat/completions", body)
    found = (sample.tierwise or {}).get("config_hash")
    return None if found is None else str(found)
