"""The floor section measures what our own code adds to Ray Serve, around engines that answer at once.

Bare Ray is a no-op ingress and a no-op engine in the shape of the stack (bare_ray_app.py). Rounds alternate between it
and the stack. `python -m benchmarks gateway` measures the same alone.
"""

import argparse
import asyncio
import sys
from typing import Any

from benchmarks.load.process import process
from benchmarks.load.text_table import columns, number, spread
from benchmarks.run.lab import Labs
from benchmarks.run.plan import Plan
from benchmarks.run.spread import over_rounds
from benchmarks.sections.gateway import (
    BARE_RAY_PORT,
    NOOP_PROFILE,
    NOOP_URL,
    bare_ray_targets,
    gateway_memory,
    measure_rounds,
)

ROUNDS = 4
SETTINGS = {"requests": 40, "tokens": 64, "concurrency": 16}


def measure(plan: Plan, _: Labs) -> dict[str, Any]:
    """One row a target, and one per way through the stack with what it adds to bare Ray of its shape."""
    if plan.url is not None:
        raise SystemExit("bare Ray is measured on stacks of its own, without --url")
    rounds = min(plan.rounds, ROUNDS)
    args = argparse.Namespace(rounds=rounds, **SETTINGS)
    with (
        process(
            [sys.executable, "-m", "benchmarks.sections.bare_ray_app", str(BARE_RAY_PORT)],
            f"http://127.0.0.1:{BARE_RAY_PORT}/one",
        ),
        process([sys.executable, "-m", "serving", "serve", NOOP_PROFILE], f"{NOOP_URL}/healthz") as stack,
    ):
        found, failed = asyncio.run(measure_rounds(args, bare_ray_targets()))
        memory_bytes = gateway_memory(stack.pid)
    rows = [{"row": name, "failed": failed[name], **over_rounds(figures)} for name, figures in found.items()]
    names = list(found)
    rows += [
        {"row": f"{ours} over {bare}", **over_rounds(added(found[ours], found[bare]))}
        for bare, ours in zip(names[::2], names[1::2], strict=True)
    ]
    return {"rows": rows, "gateway_memory_bytes": memory_bytes, "warm_up_rounds": 1, **SETTINGS}


def added(ours: list[dict[str, float | None]], bare: list[dict[str, float | None]]) -> list[dict[str, float | None]]:
    """Seconds that ours takes longer, and its throughput as a share, round by round."""

    def more(name: str, a: dict[str, float | None], b: dict[str, float | None]) -> float | None:
        return None if (x := a[name]) is None or (y := b[name]) is None else x - y

    result: list[dict[str, float | None]] = []
    for a, b in zip(ours, bare, strict=True):
        rates = (a["throughput_rps"], b["throughput_rps"])
        result.append(
            {
                "single_added_s": more("e2e_p50_s", a, b),
                "ttft_added_s": more("ttft_p50_s", a, b),
                "gap_added_s": more("gap_p50_s", a, b),
                "throughput_ratio": rates[0] / rates[1] if rates[0] is not None and rates[1] else None,
            }
        )
    return result


def table(found: dict[str, Any]) -> str:
    """Targets, then what is added. Times in milliseconds."""
    targets = [
        (
            row["row"],
            f"{number(row['e2e_p50_s'], 1, 1e-3)} / {number(row['e2e_p99_s'], 1, 1e-3)}",
            spread(row, "ttft_p50_s", 1, 1e-3),
            f"{number(row['gap_p50_s'], 2, 1e-3)} / {number(row['gap_p99_s'], 1, 1e-3)}",
            spread(row, "throughput_rps", 1),
            str(row["failed"]),
        )
        for row in found["rows"]
        if "e2e_p50_s" in row
    ]
    over = [
        (
            row["row"],
            spread(row, "single_added_s", 1, 1e-3),
            spread(row, "ttft_added_s", 1, 1e-3),
            spread(row, "gap_added_s", 2, 1e-3),
            spread(row, "throughput_ratio", 2),
        )
        for row in found["rows"]
        if "single_added_s" in row
    ]
    head = ("no-op engines", "1 token p50/p99 ms", "first of stream ms", "gap p50/p99 ms", "streams/s at 16", "failed")
    over_head = ("added, same round", "1 token ms", "first of stream ms", "gap ms", "throughput")
    memory = number(found["gateway_memory_bytes"], 0, 2**20)
    return f"{columns(head, targets)}\n\n{columns(over_head, over)}\n\ngateway process, resident: {memory} MiB"
