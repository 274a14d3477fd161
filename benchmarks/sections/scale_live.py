"""What more replicas and gateway processes bring: running stacks of each size, one after the other.

Replicas of one small machine would share its cores and bring nothing. So these engines only wait: each answers eight
requests at a time at a stated pace, as a GPU of its own would, and what is measured is the rest of the stack.
Engines that answer at once show where the ingress itself saturates. Real engines side by side: `replicas --live`.
"""

import asyncio
import sys
from typing import Any

from tqdm import tqdm

from benchmarks.load.client import Sample, closed_loop, new_session, quantile, request
from benchmarks.load.figures import figures
from benchmarks.load.targets import TOKENIZER, Target, chat, stack
from benchmarks.load.text_table import columns, number, spread
from benchmarks.run.lab import TINY_SLO
from benchmarks.run.plan import Plan
from benchmarks.run.spread import over_rounds
from benchmarks.sections.engine import Cell

# (replicas of tier 1, gateway processes)
SIZES = ((1, 1), (2, 1), (3, 1), (3, 2))
INGRESSES = (1, 2)
LEVELS = (1, 4, 16, 48)
ROUNDS = 3
REQUESTS_PER_LEVEL = 6
# One replica: 8 requests at a time, 16 tokens 50 ms apart, so 10 requests a second; four times as many are under way.
PACED = {"engine": "noop", "noop_token_s": 0.05, "max_concurrent_requests": 8, "max_queued_requests": 256}
PACED_TOKENS = 16
PACED_AT_A_TIME = 32
PACED_REQUESTS = 96


def measure_live(plan: Plan) -> list[dict[str, Any]]:
    """One row a size, and one per number of gateway processes and requests at a time."""
    rows = []
    rounds = min(plan.rounds, ROUNDS)
    for replicas, ingress in tqdm(SIZES, desc="scale, replicas", unit="stack", file=sys.stderr):
        tier1 = {"model": TOKENIZER.name, **PACED, "replicas": replicas}
        with stack(plan.scratch, "kv_aware", tier1, ingress) as target:
            found = asyncio.run(measure_size(target, rounds, plan.seed))
        name = f"{replicas} replicas, {ingress} ingress"
        rows.append({"row": name, "replicas": replicas, "ingress": ingress, **over_rounds(found)})
    for ingress in tqdm(INGRESSES, desc="scale, ingress", unit="stack", file=sys.stderr):
        noop = {"model": TOKENIZER.name, "engine": "noop", "max_concurrent_requests": 512, "max_queued_requests": 512}
        with stack(plan.scratch, "power_of_two", noop, ingress) as target:
            levels = asyncio.run(measure_levels(target, rounds))
        rows += [
            {
                "row": f"no-op engine, {ingress} ingress, {level} at a time",
                "ingress": ingress,
                "at_a_time": level,
                **over_rounds(found),
            }
            for level, found in levels.items()
        ]
    return rows


async def measure_size(target: Target, rounds: int, seed: int) -> list[dict[str, float | None]]:
    """More streams at once than one replica takes. Round 0 warms up with as many as are under way."""
    found = []
    async with new_session() as session:
        for round_number in range(rounds + 1):
            requests = PACED_REQUESTS if round_number else PACED_AT_A_TIME
            prompts = Cell("short", 40, PACED_TOKENS, PACED_AT_A_TIME, requests).prompts(f"{seed} {round_number}")

            async def send(place: int, prompts: list[list[dict[str, str]]] = prompts) -> Sample:
                body = chat(target.model, prompts[place], PACED_TOKENS)
                return await request(session, f"{target.url}/v1/chat/completions", body)

            samples, wall_s = await closed_loop(send, requests=requests, concurrency=PACED_AT_A_TIME)
            if round_number:
                found.append(figures(samples, wall_s, TINY_SLO))
    return found


async def measure_levels(target: Target, rounds: int) -> dict[int, list[dict[str, float | None]]]:
    """One token whole, more and more at a time. Round 0 warms up."""
    found: dict[int, list[dict[str, float | None]]] = {level: [] for level in LEVELS}
    body = {"model": target.model, "messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 1}
    async with new_session() as session:

        async def send(_: int) -> Sample:
            return await request(session, f"{target.url}/v1/chat/completions", body)

        for round_number in range(rounds + 1):
            for level in LEVELS:
                samples, wall_s = await closed_loop(
                    send, requests=max(40, REQUESTS_PER_LEVEL * level), concurrency=level
                )
                done = [s.e2e_s for s in samples if s.error is None and s.e2e_s is not None]
                if round_number:
                    found[level].append(
                        {
                            "requests_rps": len(done) / wall_s if done else None,
                            "e2e_p50_s": quantile(done, 0.5),
                            "e2e_p99_s": quantile(done, 0.99),
                            "failed": float(len(samples) - len(done)),
                        }
                    )
    return found


def live_table(rows: list[dict[str, Any]]) -> str:
    """Sizes first, then the ingress alone. Times in milliseconds."""
    sizes = [
        (
            row["row"],
            spread(row, "requests_rps", 1),
            spread(row, "ttft_p50_s", 0, 1e-3),
            number(row["ttft_p99_s"], 0, 1e-3),
            number(row["failed"], 0),
        )
        for row in rows
        if "replicas" in row
    ]
    levels = [
        (
            row["row"],
            spread(row, "requests_rps", 0),
            spread(row, "e2e_p50_s", 1, 1e-3),
            number(row["e2e_p99_s"], 1, 1e-3),
            number(row["failed"], 0),
        )
        for row in rows
        if "at_a_time" in row
    ]
    size_head = ("paced engines, 32 streams at a time", "requests/s", "TTFT p50 ms", "p99", "failed")
    level_head = ("ingress alone, one token", "requests/s", "p50 ms", "p99", "failed")
    return f"{columns(size_head, sizes)}\n\n{columns(level_head, levels)}"
