"""Replica routing on running engines, side by side: the same loads, machine and engines for us and for the others.

Every target is three vLLM engines of a small model: behind our gateway under one of Ray Serve's request routers, or
three OpenAI servers behind another project's router (--peers FOLDER holds its command). Hits are what the engines
report in each answer's usage. With --overhead engines that answer at once show what choosing a replica costs.
"""

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from tqdm import tqdm

from benchmarks.load.client import Sample, closed_loop, new_session, quantile, request
from benchmarks.load.targets import SHAPE, TOKENIZER, Target, chat, engines, stack
from benchmarks.load.text_table import ms
from benchmarks.load.tiny_model import write_model
from benchmarks.load.workload import Workload, bodies, load_workload, play, workloads
from benchmarks.replicas.peer_routers import PEERS, bare_engines, peer
from benchmarks.run import card

WARM_UP = Workload(
    name="warm-up", sessions=12, turns=4, groups=0, user_words=180, output_tokens=4, concurrency=12, seed=1_000_003
)
PREFIX_AFFINITY = "ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router:PrefixCacheAffinityRouter"
LOADS = ["multi_turn", "shared_prefix", "zero_reuse"]
# Name -> tier1.replica_routing.policy of our stack.
STACKS = {"kv_aware": "kv_aware", "power_of_two": "power_of_two", "ray_prefix_affinity": PREFIX_AFFINITY}


def add_live_arguments(parser: argparse._ArgumentGroup) -> None:
    """Options of `python -m benchmarks replicas --live`."""
    parser.add_argument("--live", action="store_true", help="start engines (--replicas of them, 3) and measure")
    parser.add_argument("--targets", nargs="*", choices=[*STACKS, *PEERS], help="default: all that can be started")
    parser.add_argument("--peers", type=Path, help="folder with the commands smg and vllm-router")
    parser.add_argument("--workloads", nargs="+", choices=list(workloads()), default=LOADS)
    parser.add_argument("--model", type=Path, help="folder of the weights (default: a small one of random weights)")
    parser.add_argument("--cache-tokens", type=int, default=10_240, help="KV cache of one replica, in tokens (10,240)")
    parser.add_argument("--sequential", type=int, default=0, help="also so many single requests: expected = found?")
    parser.add_argument(
        "--rounds", type=int, default=3, help="times each load is played, with other words each time (3)"
    )
    parser.add_argument("--overhead", type=int, default=0, metavar="ROUNDS", help="also the cost of choosing")
    parser.add_argument("--out", type=Path, help="also write the JSON document here")


def run_live(args: argparse.Namespace) -> int:
    """Measure, print card, table and JSON."""
    replicas = args.replicas or 3
    settings = {
        "benchmark": "replicas --live",
        "overhead_rounds": args.overhead,
        "replicas": replicas,
        "cache_tokens": args.cache_tokens,
    }
    facts = card.make_card(settings, {"tier1": str(args.model or f"random weights, {SHAPE}")}, seed=0)
    print(card.text(facts))
    loads = [load_workload(workloads()[name]) for name in args.workloads]
    document: dict[str, Any] = {"card": facts, "rows": [], "not_started": {}}
    chosen = [*STACKS, *(PEERS if args.peers else ())] if args.targets is None else args.targets
    with tempfile.TemporaryDirectory(prefix="tierwise-bench-") as scratch:
        if args.overhead:
            document["overhead"] = overhead(Path(scratch), replicas, args.overhead)
        model = args.model or (write_model(Path(scratch) / "model", TOKENIZER, SHAPE) if chosen else Path())
        tier1 = engines(model, replicas, args.cache_tokens) if chosen else {}
        for name in [name for name in chosen if name in STACKS]:
            with noted(document, name), stack(Path(scratch), STACKS[name], tier1) as target:
                document["rows"] += measure(name, target, loads, args.rounds)
                if name == "kv_aware":
                    document["choosing"] = asyncio.run(choosing(target))
                if name == "kv_aware" and args.sequential:
                    document["expected"] = asyncio.run(expected_against_found(target, args.sequential))
        if peers := [name for name in chosen if name in PEERS]:
            with noted(document, "bare engines"), bare_engines(model, args.cache_tokens, replicas) as urls:
                for name in peers:
                    with noted(document, name), peer(name, args.peers, urls, str(model)) as target:
                        document["rows"] += measure(name, target, loads, args.rounds)
    print_live(document)
    text = json.dumps(document)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(text + "\n")
    print(text)
    return 0


@contextlib.contextmanager
def noted(document: dict[str, Any], name: str) -> Iterator[None]:
    """A target that does not start is part of the result, and the others are measured all the same."""
    try:
        yield
    except SystemExit as error:
        document["not_started"][name] = str(error)[:300]
    for measured in [r for r in document["rows"] if r["target"] == name]:
        tqdm.write(live_line(measured, None), file=sys.stderr)  # what is known if the rest should be interrupted


def measure(name: str, target: Target, loads: list[Workload], rounds: int = 1) -> list[dict[str, Any]]:
    """One row per load: the round with the median TTFT, and the spread of all rounds.

    Before them the target is warmed up with prompts that nobody repeats: an engine's first prompts of each length take
    seconds, and a router that learns from them would go on learning.
    """
    asyncio.run(measure_load(name, target, WARM_UP))
    played: dict[str, list[dict[str, Any]]] = {load.name: [] for load in loads}
    for number in range(rounds):
        for load in loads:
            again = load.model_copy(update={"seed": load.seed + 100 * number})
            played[load.name].append(asyncio.run(measure_load(name, target, again)))
    return [median_round(rows) for rows in played.values()]


def median_round(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row with the median mean TTFT, with the failures of all and the spread of hits and TTFT, shape (rounds,)."""
    ordered = sorted(rows, key=lambda r: r["ttft_mean_s"] or 0.0)
    return ordered[len(rows) // 2] | {
        "failed": sum(r["failed"] for r in rows),
        "first_error": next((r["first_error"] for r in rows if r["first_error"]), None),
        "hit_rates": [r["hit_rate"] for r in rows],
        "ttft_means_s": [r["ttft_mean_s"] for r in rows],
    }


async def measure_load(name: str, target: Target, load: Workload) -> dict[str, Any]:
    """Play one load against one target."""
    async with new_session() as session:
        with tqdm(total=load.requests, desc=f"{name}, {load.name}", unit="request", file=sys.stderr) as bar:

            async def send(messages: list[dict[str, str]], session_id: str) -> Sample:
                return await request(
                    session,
                    f"{target.url}/v1/chat/completions",
                    chat(target.model, messages, load.output_tokens),
                    {"x-session-id": session_id},
                )

            samples, wall_s = await play(load, send, bar.update)
    return row(name, load.name, samples, wall_s)


def row(name: str, load: str, samples: list[Sample], wall_s: float) -> dict[str, Any]:
    """The figures of one load. None where nothing succeeded."""
    done = [s for s in samples if s.error is None]
    cached = sum(s.cached_tokens or 0 for s in done)
    inputs = sum(s.input_tokens or 0 for s in done)
    ttfts = [s.ttft_s for s in done if s.ttft_s is not None]
    return {
        "target": name,
        "workload": load,
        "requests": len(samples),
        "failed": len(samples) - len(done),
        "first_error": next((s.error for s in samples if s.error is not None), None),
        "hit_tokens": cached,
        "input_tokens": inputs,
        "hit_rate": cached / inputs if inputs else None,
        "ttft_mean_s": sum(ttfts) / len(ttfts) if ttfts else None,
        "ttft_p50_s": quantile(ttfts, 0.5),
        "ttft_p90_s": quantile(ttfts, 0.9),
        "output_tps": sum(s.output_tokens or 0 for s in done) / wall_s,
        "wall_s": wall_s,
    }


async def choosing(target: Target) -> dict[str, Any]:
    """How often the gateway chose a replica in which mode, and the mean time of a choice, as its metrics say."""
    async with new_session(30) as session, session.get(f"{target.url}/metrics") as reply:
        samples = [s for family in text_string_to_metric_families(await reply.text()) for s in family.samples]
    tier1 = [s for s in samples if s.labels.get("tier", "tier1") == "tier1"]
    modes = {s.labels["mode"]: int(s.value) for s in tier1 if s.name == "tierwise_replica_decisions_total" and s.value}
    seconds = sum(s.value for s in tier1 if s.name == "tierwise_replica_decision_seconds_total")
    return {"modes": modes, "mean_s": seconds / sum(modes.values()) if modes else None}


async def expected_against_found(target: Target, count: int) -> dict[str, Any]:
    """Single requests, one after the other: what the choice counted on against what the engine found cached."""
    rng = random.Random(0)
    load = load_workload(workloads()["shared_prefix"])
    equal = compared = 0
    modes: dict[str, int] = {}
    async with new_session() as session:
        for number in tqdm(range(count), desc="expected = found?", unit="request", file=sys.stderr):
            place = rng.randrange(load.sessions)
            messages = [*load.opening(place), load.question(place, 0)]
            if number % 2:  # every second one goes on with what an earlier one began
                messages += [{"role": "assistant", "content": "Yes."}, load.question(place, rng.randrange(1, 4))]
            sample = await request(session, f"{target.url}/v1/chat/completions", chat(target.model, messages, 2))
            choice = ((sample.tierwise or {}).get("attempts") or [{}])[-1].get("replica")
            if choice is not None:
                compared += 1
                equal += choice["expected_cached_tokens"] == sample.cached_tokens
                modes[choice["mode"]] = modes.get(choice["mode"], 0) + 1
    return {"requests": count, "compared": compared, "equal": equal, "modes": modes}


def overhead(scratch: Path, replicas: int, rounds: int) -> list[dict[str, Any]]:
    """What choosing costs where nothing can be gained: engines that answer at once, prompts that nobody repeats."""
    tier1 = {
        "model": TOKENIZER.name,
        "engine": "noop",
        "replicas": replicas,
        "max_concurrent_requests": 512,
        "max_queued_requests": 512,
    }
    names = ("power_of_two", "kv_aware")
    with contextlib.ExitStack() as stacks:
        targets = {name: stacks.enter_context(stack(scratch, name, tier1)) for name in names}
        return asyncio.run(measure_overhead(targets, rounds))


async def measure_overhead(targets: dict[str, Target], rounds: int) -> list[dict[str, Any]]:
    """Rounds alternate between the stacks, so that what else the machine does hits both. The first one warms up."""
    load = load_workload(workloads()["zero_reuse"])
    single: dict[str, list[float]] = {name: [] for name in targets}
    rps: dict[str, list[float]] = {name: [] for name in targets}
    failed = dict.fromkeys(targets, 0)
    prompts = [body | {"max_tokens": 1, "temperature": 0, "model": "tier1"} for body in bodies(load)]
    async with new_session() as session:
        for number in tqdm(range(rounds + 1), desc="overhead", unit="round", file=sys.stderr):
            for name in list(targets)[:: 1 if number % 2 else -1]:
                url = f"{targets[name].url}/v1/chat/completions"

                async def send(place: int, url: str = url) -> Sample:
                    return await request(session, url, prompts[place % len(prompts)])

                alone, _ = await closed_loop(send, requests=100, concurrency=1)
                loaded, wall_s = await closed_loop(send, requests=240, concurrency=16)
                done = [s for s in (*alone, *loaded) if s.error is None]
                failed[name] += len(alone) + len(loaded) - len(done)
                if number:
                    single[name] += [s.e2e_s for s in alone if s.error is None and s.e2e_s is not None]
                    rps[name].append(sum(s.error is None for s in loaded) / wall_s)
    return [
        {
            "target": name,
            "rounds": rounds,
            "e2e_p50_s": quantile(single[name], 0.5),
            "e2e_p99_s": quantile(single[name], 0.99),
            "throughput_rps": quantile(rps[name], 0.5),
            "failed": failed[name],
        }
        for name in targets
    ]


def print_live(document: dict[str, Any]) -> None:
    """The tables. Hits and tokens per second also relative to power of two choices."""
    base = {r["workload"]: r for r in document["rows"] if r["target"] == "power_of_two"}
    if document["rows"]:
        print(
            f"\n{'workload':<15}{'target':<27}{'hits':>8}{'x':>7}{'TTFT mean/p50/p90 ms':>27}{'tok/s':>9}{'failed':>8}"
        )
    for r in sorted(document["rows"], key=lambda r: str(r["workload"])):
        print(live_line(r, base.get(r["workload"])))
    for name, reason in document["not_started"].items():
        print(f"{name} did not start: {reason}")
    if chosen := document.get("choosing"):
        print(f"\nchoosing a replica took {ms(chosen['mean_s'])} ms in the mean: {chosen['modes']}")
    if found := document.get("expected"):
        print(
            f"\nexpected cached tokens were the engine's in {found['equal']} of {found['compared']}: {found['modes']}"
        )
    if rows := document.get("overhead"):
        two, ours = rows
        print(f"\n{'choosing a replica':<20}{'1 token p50/p99 ms':>20}{'requests/s':>12}")
        for r in rows:
            print(f"{r['target']:<20}{ms(r['e2e_p50_s']) + ' / ' + ms(r['e2e_p99_s']):>20}{r['throughput_rps']:>12.1f}")
        print(
            f"kv_aware over power_of_two: {(ours['e2e_p50_s'] - two['e2e_p50_s']) * 1000:+.2f} ms p50, "
            f"throughput x{ours['throughput_rps'] / two['throughput_rps']:.3f}"
        )


def live_line(figures: dict[str, Any], base: dict[str, Any] | None) -> str:
    """One row of the table."""
    times = f"{figures['hit_tokens'] / base['hit_tokens']:.2f}" if base and base["hit_tokens"] else "-"
    ttft = " / ".join(ms(figures[f"ttft_{q}_s"]) for q in ("mean", "p50", "p90"))
    hits = "-" if figures["hit_rate"] is None else f"{figures['hit_rate']:.3f}"
    return (
        f"{figures['workload']:<15}{figures['target']:<27}{hits:>8}{times:>7}{ttft:>27}{figures['output_tps']:>9.1f}"
        f"{figures['failed']:>8}{_spread(figures)}"
    )


def _spread(figures: dict[str, Any]) -> str:
    """Least and most of the rounds, where there were several."""
    hits, ttfts = ([v for v in figures.get(name, ()) if v is not None] for name in ("hit_rates", "ttft_means_s"))
    if len(hits) < 2 or len(ttfts) < 2:
        return ""
    return f"   rounds: hits {min(hits):.3f}..{max(hits):.3f}, mean TTFT {ms(min(ttfts))}..{ms(max(ttfts))}"
