"""The replay's reference: Dynamo's own mocker on the same trace, which ours has to agree with.

The mocker (`ai-dynamo-runtime`) simulates vLLM's scheduler step by step and routes with Dynamo's router itself, where
`replay.py` has a simpler engine and the router's published rules. It lives in the environment of the
peers (`make bench-peers`) and runs in a process of that environment.
"""

import gzip
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.replicas.replay import Row, Setup

# Ours: theirs.
ROUTER_MODES = {"round_robin": "round_robin", "dynamo": "kv_router"}
AGREES_WITHIN = 0.015
# What its engine prefills at speed 1: at half of it, 20,000 tokens/s, its round robin waits as long as ours.
PREFILL_TOKENS_PER_S = 40_000.0
MAX_BATCHED_TOKENS = 8192
LIMIT_S = 600
COMMAND = """
import json, sys
from dynamo._core import run_mocker_trace_replay
asked = json.load(sys.stdin)
told = run_mocker_trace_replay(
    [asked["trace"]],
    num_workers=asked["replicas"],
    router_mode=asked["router_mode"],
    trace_block_size=asked["block_size_tokens"],
    arrival_speedup_ratio=asked["arrival_speed"],
    extra_engine_args={
        "engine": {
            "backend": "vllm",
            "num_gpu_blocks": asked["capacity_blocks"],
            "block_size": asked["block_size_tokens"],
            "max_num_batched_tokens": asked["max_batched_tokens"],
            "speedup_ratio": asked["engine_speed"],
        },
        "num_gpu_blocks_is_explicit": True,
    },
)
print(json.dumps({"told": told.summary}, default=str))
"""


@dataclass(frozen=True, slots=True)
class Reference:
    """The mocker's outcome for one of our policies. difference: our hit rate less its own. Both shares of the input."""

    policy: str
    replicas: int
    hit_rate: float
    difference: float
    ttft_mean_s: float

    @property
    def agrees(self) -> bool:
        """Within 1.5 points of hit rate."""
        return abs(self.difference) <= AGREES_WITHIN


def references(
    python: Path, trace: Path, limit: int | None, speed: float, setup: Setup, rows: Sequence[Row]
) -> list[Reference]:
    """The mocker's row for each of `rows` that it has a router for. python: of the environment that has the mocker.

    Raises RuntimeError with the mocker's last words if it fails or takes longer than ten minutes.
    """
    found = []
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "trace.jsonl"
        plain.write_text("".join(first_lines(trace, limit)))
        for row in rows:
            if row.policy not in ROUTER_MODES:
                continue
            asked = {
                "trace": str(plain),
                "replicas": setup.replicas,
                "router_mode": ROUTER_MODES[row.policy],
                "block_size_tokens": setup.block_size_tokens,
                "capacity_blocks": setup.capacity_blocks,
                "max_batched_tokens": MAX_BATCHED_TOKENS,
                "arrival_speed": speed,
                "engine_speed": setup.prefill_tokens_per_s / PREFILL_TOKENS_PER_S,
            }
            told = ask_mocker(python, asked)
            hit_rate = float(told["prefix_cache_reused_ratio"])
            ttft_s = float(told["mean_ttft_ms"]) / 1000
            found.append(Reference(row.policy, row.replicas, hit_rate, row.hit_rate - hit_rate, ttft_s))
    return found


def first_lines(trace: Path, limit: int | None) -> Iterator[str]:
    """The trace's lines in order of arrival, as the replay takes them."""
    with gzip.open(trace, "rt") if trace.suffix == ".gz" else trace.open() as lines:
        full = [line.rstrip("\n") + "\n" for line in lines if line.strip()]
    yield from sorted(full, key=lambda line: float(json.loads(line)["timestamp"]))[:limit]


def ask_mocker(python: Path, asked: dict[str, object]) -> dict[str, float]:
    """The mocker's own summary of one replay."""
    try:
        told = subprocess.run(
            [python, "-c", COMMAND],
            input=json.dumps(asked),
            capture_output=True,
            text=True,
            check=True,
            timeout=LIMIT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"Dynamo's mocker did not run with {python}: {error}") from error
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["nothing was said"])[-1]
        raise RuntimeError(f"Dynamo's mocker failed with {python}: {last} (`make bench-peers` installs it)") from error
    summary: dict[str, float] = json.loads(told.stdout.strip().splitlines()[-1])["told"]
    return summary


def print_references(found: Sequence[Reference]) -> None:
    """The table."""
    print(f"{'Dynamo mocker':<16}{'hit rate':>9}{'ours less its':>15}{'TTFT mean s':>13}  within {AGREES_WITHIN}")
    for reference in found:
        print(
            f"{reference.policy:<16}{reference.hit_rate:>9.4f}{reference.difference:>+15.4f}"
            f"{reference.ttft_mean_s:>13.3f}  {'yes' if reference.agrees else 'NO'}"
        )
