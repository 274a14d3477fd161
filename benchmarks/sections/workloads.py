"""The workloads section: every load of benchmarks/workloads/ at its own arrival times, directly and through the stack.

Open loop: requests leave at their time whatever the server does, so a server that falls behind shows it.
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Any

import aiohttp
from tqdm import tqdm

from benchmarks.load.client import Sample, new_session, quantile, request
from benchmarks.load.figures import figures
from benchmarks.load.targets import Target, chat
from benchmarks.load.text_table import columns, number, spread
from benchmarks.load.workload import Workload, load_workload, play_open, workloads
from benchmarks.run.lab import Lab, Labs
from benchmarks.run.plan import Plan
from benchmarks.run.spread import arms_order, over_rounds
from benchmarks.sections.engine import DIRECT, TIER1, slo_text

LOADS = ("support_desk", "chat", "rag", "json_extraction", "code")
QUICK_LOADS = ("support_desk",)
QUICK_SESSIONS = 12
ROUNDS = 3


def measure(plan: Plan, labs: Labs) -> dict[str, Any]:
    """One row a load and arm. The first conversations of every load warm up and are thrown away."""
    lab = labs.enter("tiny")
    loads = [load_workload(workloads()[name]) for name in (QUICK_LOADS if plan.quick else LOADS)]
    if plan.quick:
        loads = [load.model_copy(update={"sessions": min(QUICK_SESSIONS, load.sessions)}) for load in loads]
    return asyncio.run(measure_lab(lab, loads, min(plan.rounds, ROUNDS), plan.seed))


async def measure_lab(lab: Lab, loads: Sequence[Workload], rounds: int, seed: int) -> dict[str, Any]:
    """Arms take turns within each round. A round has prompts of its own."""
    arms = {DIRECT: lab.direct, TIER1: lab.tier1}
    targets = {arm: target for arm, target in arms.items() if target is not None}
    rows = []
    warm_up = 0
    late_s: list[float] = []
    bar = tqdm(total=len(loads) * rounds * len(targets), desc="workloads", unit="round", file=sys.stderr)
    async with new_session() as session:
        for load in loads:
            seen: dict[str, list[dict[str, float | None]]] = {arm: [] for arm in targets}
            few = load.model_copy(update={"sessions": min(4, load.sessions), "turns": 1, "seed": load.seed + 1000})
            for target in targets.values():
                warm_up += len((await play_one(session, target, few, seed))[0])
            for round_number in range(rounds):
                fresh = load.model_copy(update={"seed": load.seed + 100 * (round_number + 1) + seed})
                for arm in arms_order(list(targets), round_number):
                    samples, wall_s = await play_one(session, targets[arm], fresh, seed)
                    seen[arm].append(figures(samples, wall_s, lab.slo))
                    late_s += [sample.late_s for sample in samples if sample.late_s is not None]
                    bar.update()
            rows += [
                {
                    "row": f"{lab.name}, {load.name}, {arm}",
                    "load": load.name,
                    "arm": arm,
                    "rate_rps": load.arrival.rate_rps if load.arrival else None,
                    **over_rounds(found),
                }
                for arm, found in seen.items()
            ]
    bar.close()
    return {
        "rows": rows,
        "lab": lab.name,
        "warm_up_requests": warm_up,
        "client_late_p99_s": quantile(late_s, 0.99),
        "goodput": slo_text(lab.slo),
    }


async def play_one(
    session: aiohttp.ClientSession, target: Target, load: Workload, seed: int
) -> tuple[list[Sample], float]:
    """One round of one load against one target."""

    async def send(messages: list[dict[str, str]], session_id: str) -> Sample:
        body = chat(target.model, messages, load.output_tokens) | load.extras()
        return await request(session, f"{target.url}/v1/chat/completions", body, {"x-session-id": session_id})

    return await play_open(load, send, seed=seed)


def table(found: dict[str, Any]) -> str:
    """One line a load and arm. Times in milliseconds."""
    head = ("load", "arm", "begin/s", "answers/s", "TTFT p50 ms", "p99", "TPOT ms", "goodput/s", "hits", "failed")
    lines = [
        (
            row["load"],
            row["arm"],
            number(row["rate_rps"], 1),
            spread(row, "requests_rps"),
            spread(row, "ttft_p50_s", 0, 1e-3),
            number(row["ttft_p99_s"], 0, 1e-3),
            number(row["tpot_p50_s"], 1, 1e-3),
            number(row["goodput_rps"]),
            number(row["hit_rate"], 3),
            number(row["failed"], 0),
        )
        for row in found["rows"]
    ]
    notes = (
        f"{found['lab']} engine, open loop; warm-up: {found['warm_up_requests']} requests thrown away; the client sent "
        f"{number(found['client_late_p99_s'], 1, 1e-3)} ms late at p99\ngoodput: {found['goodput']}"
    )
    return f"{notes}\n\n{columns(head, lines)}"


def plot(found: dict[str, Any], path: Any) -> None:
    """First token and goodput of every load."""
    from benchmarks.run.plots import bars  # noqa: PLC0415 - matplotlib is an extra

    bars(path, found["rows"], {"ttft_p50_s": "TTFT p50, s", "goodput_rps": "goodput, requests/s"})
