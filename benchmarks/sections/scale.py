"""The scale section: what more replicas and more gateway processes bring, running and, up to sixty-four, simulated.

Simulated by the replica router's own code: every replica gets the same requests a second of conversations that grow
and share system prompts, so that a routing that scales keeps its hits and its TTFT. The model of a replica is
benchmarks/replicas/replay.py's. What runs is in benchmarks/sections/scale_live.py.
"""

import random
import sys
from typing import Any

from tqdm import tqdm

from benchmarks.load.client import quantile
from benchmarks.load.text_table import columns, number, spread
from benchmarks.replicas.replay import Setup, ceiling_hit_rate, simulate
from benchmarks.replicas.trace import TraceRequest
from benchmarks.run.lab import Labs
from benchmarks.run.plan import Plan
from benchmarks.run.spread import over_rounds
from benchmarks.sections.scale_live import live_table, measure_live
from routing.replicas.kv_blocks import block_keys, root_key

REPLICAS = (1, 2, 4, 8, 16, 32, 64)
POLICIES = ("kv_aware", "least_requests")
REQUESTS_PER_REPLICA = 200
# At 3,850 tokens a request this is 0.77 of a replica's 20,000 prefilled tokens a second before any cache, so that a
# routing that loses its hits shows it.
RATE_RPS_PER_REPLICA = 4.0
BLOCK_TOKENS = 512
CAPACITY_TOKENS = 200_000
TURNS = 4
ROUNDS = 3  # at most: sixty-four replicas take half a minute a round


def conversations(replicas: int, seed: int) -> list[TraceRequest]:
    """Poisson arrivals of conversations: a system prompt shared by many, then turns that each add to the prompt."""
    rng = random.Random(f"{seed} {replicas}")
    root = root_key("scale")
    prompts = 8 * replicas
    rate = RATE_RPS_PER_REPLICA * replicas
    requests = []
    at_s = 0.0
    for session in range(REQUESTS_PER_REPLICA * replicas // TURNS):
        at_s += rng.expovariate(rate / TURNS)
        system = rng.randrange(prompts)
        blocks = [2**31 + system * 2 + n for n in range(2)]  # 1,024 tokens that sessions of one product share
        turn_at_s = at_s
        for turn in range(TURNS):
            blocks = [*blocks, *((session * TURNS + turn) * 4 + n for n in range(rng.randrange(1, 4)))]
            keys = tuple(block_keys(blocks, 1, root))
            own_tokens = rng.randrange(1, BLOCK_TOKENS)
            requests.append(TraceRequest(turn_at_s, len(blocks) * BLOCK_TOKENS + own_tokens, 100, keys, session))
            turn_at_s += 1.0 + rng.expovariate(1.0)
    return sorted(requests, key=lambda request: request.at_s)


def measure(plan: Plan, _: Labs) -> dict[str, Any]:
    """Rows of what was simulated and, unless the run is quick or on somebody's stack, of what was started."""
    found = {"requests_per_replica": REQUESTS_PER_REPLICA}
    live = [] if plan.quick or plan.url is not None else measure_live(plan)
    return {"rows": [*live, *measure_simulated(plan)], **found}


def measure_simulated(plan: Plan) -> list[dict[str, Any]]:
    """Rows of every number of replicas and policy. A round is a trace of its own."""
    sizes = [n for n in REPLICAS if not plan.quick or n <= 16]
    n_rounds = min(plan.rounds, ROUNDS)
    rows = []
    with tqdm(total=len(sizes) * len(POLICIES) * n_rounds, desc="scale", unit="replay", file=sys.stderr) as bar:
        for replicas in sizes:
            rounds: dict[str, list[dict[str, float | None]]] = {policy: [] for policy in POLICIES}
            for round_number in range(n_rounds):
                requests = conversations(replicas, plan.seed + round_number)
                setup = Setup(replicas, CAPACITY_TOKENS, BLOCK_TOKENS, seed=plan.seed + round_number)
                pooled = ceiling_hit_rate(requests, replicas * setup.capacity_blocks, BLOCK_TOKENS)
                for policy in POLICIES:
                    decided_s: list[float] = []
                    row = simulate(requests, policy, setup, pooled, decided_s)
                    rounds[policy].append(
                        {
                            "hit_rate": row.hit_rate,
                            "pooled_hit_share": row.pooled_hit_share,
                            "ttft_mean_s": row.ttft_mean_s,
                            "ttft_p90_s": row.ttft_p90_s,
                            "imbalance": row.imbalance,
                            "arrivals_rps": len(requests) / requests[-1].at_s,
                            "decision_p50_s": quantile(decided_s, 0.5),
                            "decision_p99_s": quantile(decided_s, 0.99),
                        }
                    )
                    bar.update()
            rows += [
                {
                    "row": f"simulated, {replicas} replicas, {policy}",
                    "replicas": replicas,
                    "policy": policy,
                    **over_rounds(rounds[policy]),
                }
                for policy in POLICIES
            ]
    return rows


def table(found: dict[str, Any]) -> str:
    """One line a row: hits as a share of one pooled cache's, seconds until the first token, time of a choice."""
    head = (
        "simulated",
        "policy",
        "requests/s",
        "hits",
        "of pooled",
        "TTFT mean s",
        "p90 s",
        "imbalance",
        "choice p50/p99 ms",
    )
    lines = []
    for row in simulated(found):
        choice = f"{number(row['decision_p50_s'], 3, 1e-3)} / {number(row['decision_p99_s'], 3, 1e-3)}"
        lines.append(
            (
                f"{row['replicas']} replicas",
                row["policy"],
                number(row["arrivals_rps"], 1),
                number(row["hit_rate"], 3),
                number(row["pooled_hit_share"], 3),
                spread(row, "ttft_mean_s", 3),
                number(row["ttft_p90_s"], 3),
                number(row["imbalance"], 3),
                choice,
            )
        )
    load = f"conversations of {TURNS} turns, {found['requests_per_replica']} requests a replica"
    text = f"{load}; median of rounds (smallest-largest)\n{columns(head, lines)}"
    running = [row for row in found["rows"] if "policy" not in row]
    return f"{live_table(running)}\n\n{text}" if running else text


def simulated(found: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that were not started."""
    return [row for row in found["rows"] if "policy" in row]


def plot(found: dict[str, Any], path: Any) -> None:
    """Mean TTFT and hits over the number of replicas, one line a policy."""
    from benchmarks.run.plots import lines_over  # noqa: PLC0415 - matplotlib is an extra

    lines_over(
        path,
        simulated(found),
        x="replicas",
        by="policy",
        figures={"ttft_mean_s": "mean TTFT, s", "hit_rate": "hit rate", "decision_p50_s": "choice p50, s"},
    )
