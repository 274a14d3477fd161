"""What our own code costs: the stack around no-op engines, beside bare Ray Serve, in one run.

Two processes are started: bare Ray (bare_ray_app.py) and the stack on deploy/profiles/noop.yaml. Rounds alternate
between them, so that what else the machine does hits both. With --direct URL an engine's own server and the stack in
front of it are compared the same way (throughput, TTFT, inter-frame gap on real tokens).
"""

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from benchmarks.load.client import Sample, closed_loop, new_session, quantile, request
from benchmarks.load.process import process
from benchmarks.load.text_table import columns, ms, number
from benchmarks.run.card import make_card, text
from benchmarks.run.spread import over_rounds

NOOP_PROFILE = "deploy/profiles/noop.yaml"
NOOP_URL = "http://127.0.0.1:8100"
BARE_RAY_PORT = 8110
MESSAGES = [{"role": "user", "content": "Name three primary colours and say in one sentence why they are called so."}]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m benchmarks gateway`."""
    parser.add_argument("--rounds", type=int, default=6, help="alternations between the targets (6)")
    parser.add_argument("--requests", type=int, default=50, help="sequential requests a round, target and kind (50)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of a streamed answer (64)")
    parser.add_argument("--concurrency", type=int, default=16, help="of the throughput rounds (16)")
    parser.add_argument("--direct", help="base URL of an engine's own OpenAI server, e.g. http://127.0.0.1:8001")
    parser.add_argument(
        "--through", help="base URL of a stack whose frontier that engine is, e.g. http://127.0.0.1:8000"
    )
    parser.add_argument("--direct-model", default="qwen2.5-coder-1.5b-instruct", help="its model name")
    parser.add_argument("--out", type=Path, help="also write the JSON document here")


def run(args: argparse.Namespace) -> int:
    """Measure, print card, table and JSON."""
    result: dict[str, Any] = {"card": make_card(settings(args), {}, seed=0), "rows": []}
    print(text(result["card"]))
    if args.direct:
        result["rows"] += asyncio.run(compare_engine(args))
    else:
        with (
            process(
                [sys.executable, "-m", "benchmarks.sections.bare_ray_app", str(BARE_RAY_PORT)],
                f"http://127.0.0.1:{BARE_RAY_PORT}/one",
            ),
            process([sys.executable, "-m", "serving", "serve", NOOP_PROFILE], f"{NOOP_URL}/healthz") as stack,
        ):
            result["rows"] += asyncio.run(compare_bare_ray(args))
            result["memory_bytes"] = gateway_memory(stack.pid)
    print_rows(result["rows"])
    if result.get("memory_bytes") is not None:
        print(f"\ngateway process, resident: {result['memory_bytes'] / 2**20:.0f} MiB")
    document = json.dumps(result)
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(document + "\n")
    print(document)
    return 0


async def compare_bare_ray(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Latency, first token, gaps and throughput of the stack and of bare Ray of the same shape."""
    return await measure(args, bare_ray_targets())


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """What two runs must share to be comparable."""
    return {
        "benchmark": "gateway",
        "rounds": args.rounds,
        "requests_per_round": args.requests,
        "warm_up_rounds": 1,
        "tokens": args.tokens,
        "concurrency": args.concurrency,
    }


def bare_ray_targets() -> dict[str, tuple[str, dict[str, Any]]]:
    """Each shape of bare Ray, and then the stack's way that has its shape: URL and what of the body is its own."""
    return {
        "floor, 1 handle call": (f"http://127.0.0.1:{BARE_RAY_PORT}/one", {}),
        "tierwise, model=tier1": (f"{NOOP_URL}/v1/chat/completions", {"model": "tier1"}),
        "floor, 2 handle calls": (f"http://127.0.0.1:{BARE_RAY_PORT}/two", {}),
        "tierwise, model=auto": (f"{NOOP_URL}/v1/chat/completions", {"model": "auto"}),
    }


async def compare_engine(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The same engine called directly and through the stack (as its frontier)."""
    targets = {
        "engine, direct": (f"{args.direct}/v1/chat/completions", {"model": args.direct_model}),
        "engine, through tierwise": (f"{args.through}/v1/chat/completions", {"model": "frontier"}),
    }
    return await measure(args, targets)


async def measure(args: argparse.Namespace, targets: dict[str, tuple[str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row per target: medians over rounds of each round's quantiles, and their spread."""
    rounds, failed = await measure_rounds(args, targets)
    return [{"target": name, "failed": failed[name], **over_rounds(rounds[name])} for name in targets]


async def measure_rounds(
    args: argparse.Namespace, targets: dict[str, tuple[str, dict[str, Any]]]
) -> tuple[dict[str, list[dict[str, float | None]]], dict[str, int]]:
    """(the figures of every target's rounds, failed requests of each, the first round's included)."""
    rounds: dict[str, list[dict[str, float | None]]] = {name: [] for name in targets}
    failed = dict.fromkeys(targets, 0)
    async with new_session() as session:

        def sender(url: str, body: dict[str, Any]) -> Callable[[int], Awaitable[Sample]]:
            return lambda _: request(session, url, body)

        bar = tqdm(total=(args.rounds + 1) * len(targets), desc="rounds", unit="round", file=sys.stderr)
        for round_number in range(args.rounds + 1):  # round 0 warms up and is thrown away
            for name, (url, extra) in targets.items():
                body = {"messages": MESSAGES, "temperature": 0, **extra}
                whole, _ = await closed_loop(
                    sender(url, {**body, "max_tokens": 1}), requests=args.requests, concurrency=1
                )
                streamed, _ = await closed_loop(
                    sender(url, {**body, "max_tokens": args.tokens, "stream": True}),
                    requests=max(1, args.requests // 5),
                    concurrency=1,
                )
                loaded, wall_s = await closed_loop(
                    sender(url, {**body, "max_tokens": args.tokens, "stream": True}),
                    requests=args.concurrency * 4,
                    concurrency=args.concurrency,
                )
                errors = [s.error for s in (*whole, *streamed, *loaded) if s.error is not None]
                failed[name] += len(errors)
                if errors:
                    bar.write(f"{name}: {errors[0]}", file=sys.stderr)
                if round_number:
                    rounds[name].append(round_numbers(whole, streamed, loaded, wall_s))
                bar.update()
        bar.close()
    return rounds, failed


def round_numbers(
    whole: list[Sample], streamed: list[Sample], loaded: list[Sample], wall_s: float
) -> dict[str, float | None]:
    """The figures of one round. None where nothing succeeded."""
    e2e = [s.e2e_s for s in whole if s.error is None and s.e2e_s is not None]
    ttft = [s.ttft_s for s in streamed if s.error is None and s.ttft_s is not None]
    gaps = [gap for s in streamed if s.error is None for gap in s.gaps_s]
    done = [s for s in loaded if s.error is None]
    return {
        "e2e_p50_s": quantile(e2e, 0.5),
        "e2e_p99_s": quantile(e2e, 0.99),
        "ttft_p50_s": quantile(ttft, 0.5),
        "ttft_p99_s": quantile(ttft, 0.99),
        "gap_p50_s": quantile(gaps, 0.5),
        "gap_p99_s": quantile(gaps, 0.99),
        "throughput_rps": len(done) / wall_s if done else None,
    }


def print_rows(rows: list[dict[str, Any]]) -> None:
    """The table, milliseconds. Under each pair what the stack adds to bare Ray."""
    head = ("p50 / p99, ms", "1 token, whole", "first of stream", "gap", "requests/s", "failed")
    cells = [
        [
            r["target"],
            *(f"{ms(r[f'{k}_p50_s'])} / {ms(r[f'{k}_p99_s'])}" for k in ("e2e", "ttft", "gap")),
            number(r["throughput_rps"], 1),
            str(r["failed"]),
        ]
        for r in rows
    ]
    print("\n" + columns(head, cells))
    for bare, ours in zip(rows[::2], rows[1::2], strict=True):
        if None in (bare["e2e_p50_s"], ours["e2e_p50_s"], bare["throughput_rps"], ours["throughput_rps"]):
            continue
        print(
            f"{ours['target']} over {bare['target']}: {(ours['e2e_p50_s'] - bare['e2e_p50_s']) * 1000:+.2f} ms p50, "
            f"{(ours['e2e_p99_s'] - bare['e2e_p99_s']) * 1000:+.2f} ms p99, "
            f"throughput x{ours['throughput_rps'] / bare['throughput_rps']:.3f}"
        )


def gateway_memory(pid: int) -> int | None:
    """Resident bytes of the gateway's own process, found among the stack's children by its Serve name."""
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if ":gateway" in " ".join(child.cmdline()):
                return int(child.memory_info().rss)
    return None
