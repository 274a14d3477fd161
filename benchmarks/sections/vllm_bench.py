"""The client section: the same load by a load generator that is not ours, `vllm bench serve`, against the same stack.

Rounds alternate. Both send as many prompts of the same make, so many at a time. Where they agree within 5 %, our
client's figures are not of its own making.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.load.client import Sample, closed_loop, new_session, quantile, request
from benchmarks.load.targets import TOKENIZER, Target, chat
from benchmarks.load.text_table import columns, number, spread
from benchmarks.run.lab import Lab, Labs
from benchmarks.run.plan import Plan
from benchmarks.run.spread import arms_order, over_rounds, ratios
from benchmarks.sections.engine import Cell

OURS, THEIRS = "ours", "vllm bench serve"
AGREES_WITHIN = 0.05
LOAD = Cell("short", 48, 32, 4, 48)
ROUNDS = 3
# Ours: theirs, in its result file; milliseconds there.
SECONDS = {
    "ttft_mean_s": "mean_ttft_ms",
    "ttft_p50_s": "median_ttft_ms",
    "tpot_mean_s": "mean_tpot_ms",
    "tpot_p50_s": "median_tpot_ms",
    "itl_p50_s": "median_itl_ms",
}
RATES = {"requests_rps": "request_throughput", "output_tps": "output_throughput", "total_tps": "total_token_throughput"}
# `vllm` as a command looks for a package named vllm, which the CPU build is not; its benchmark does not.
COMMAND = """
import argparse, importlib
client = importlib.import_module("vllm.benchmarks.serve")
parser = argparse.ArgumentParser()
client.add_cli_args(parser)
client.main(parser.parse_args())
"""


def measure(plan: Plan, labs: Labs) -> dict[str, Any]:
    """One row a client, and one with the ratio of each figure."""
    lab = labs.enter("tiny")
    seen: dict[str, list[dict[str, float | None]]] = {OURS: [], THEIRS: []}
    rounds = min(plan.rounds, ROUNDS)
    asyncio.run(ask(lab.tier1, LOAD.prompts(f"{plan.seed} warm-up")))
    for round_number in tqdm(range(rounds), desc="client", unit="round", file=sys.stderr):
        for arm in arms_order(list(seen), round_number):
            prompts = LOAD.prompts(f"{plan.seed} {round_number} {arm}")
            if arm == OURS:
                seen[arm].append(our_figures(*asyncio.run(ask(lab.tier1, prompts))))
            else:
                seen[arm].append(their_figures(run_theirs(plan.scratch, lab, prompts)))
    rows = [{"row": arm, **over_rounds(found)} for arm, found in seen.items()]
    names = [*SECONDS, *RATES]
    compared = [dict(zip(names, found, strict=True)) for found in zip(*(pairwise(seen, n) for n in names), strict=True)]
    rows.append({"row": f"{OURS} / {THEIRS}", **over_rounds(compared)})
    return {"rows": rows, "warm_up_requests": LOAD.requests, "requests": LOAD.requests, "load": LOAD.name}


def pairwise(seen: dict[str, list[dict[str, float | None]]], name: str) -> list[float | None]:
    """Ours over theirs in each round."""
    return ratios(seen[OURS], seen[THEIRS], name)


async def ask(target: Target, prompts: list[list[dict[str, str]]]) -> tuple[list[Sample], float]:
    """Our client."""
    async with new_session() as session:

        async def send(place: int) -> Sample:
            body = chat(target.model, prompts[place], LOAD.output_tokens)
            return await request(session, f"{target.url}/v1/chat/completions", body)

        return await closed_loop(send, requests=len(prompts), concurrency=LOAD.concurrency)


def our_figures(samples: list[Sample], wall_s: float) -> dict[str, float | None]:
    """By the definitions of vLLM's client."""
    done = [s for s in samples if s.error is None]
    ttfts = [s.ttft_s for s in done if s.ttft_s is not None]
    tpots = [s.tpot_s for s in done if s.tpot_s is not None]
    outputs = sum(s.output_tokens or 0 for s in done)
    inputs = sum(s.input_tokens or 0 for s in done)
    return {
        "ttft_mean_s": mean(ttfts),
        "ttft_p50_s": quantile(ttfts, 0.5),
        "tpot_mean_s": mean(tpots),
        "tpot_p50_s": quantile(tpots, 0.5),
        "itl_p50_s": quantile([gap for s in done for gap in s.gaps_s], 0.5),
        "requests_rps": len(done) / wall_s,
        "output_tps": outputs / wall_s,
        "total_tps": (inputs + outputs) / wall_s,
        "failed": float(len(samples) - len(done)),
    }


def mean(values: list[float]) -> float | None:
    """None of nothing."""
    return sum(values) / len(values) if values else None


def run_theirs(scratch: Path, lab: Lab, prompts: list[list[dict[str, str]]]) -> dict[str, Any]:
    """Its result file. Raises SystemExit with the end of what it said."""
    data, result = scratch / "prompts.jsonl", scratch / "bench-serve.json"
    data.write_text("".join(json.dumps({"prompt": messages[0]["content"]}) + "\n" for messages in prompts), "utf-8")
    result.unlink(missing_ok=True)
    flags = {
        "backend": "openai-chat",
        "base-url": lab.tier1.url,
        "endpoint": "/v1/chat/completions",
        "model": lab.tier1.model,
        "tokenizer": lab.folder or TOKENIZER,
        "dataset-name": "custom",
        "dataset-path": data,
        "custom-output-len": LOAD.output_tokens,
        "num-prompts": len(prompts),
        "max-concurrency": LOAD.concurrency,
        "request-rate": "inf",
        "temperature": 0,
        "ready-check-timeout-sec": 0,
        "percentile-metrics": "ttft,tpot,itl,e2el",
        "result-dir": result.parent,
        "result-filename": result.name,
    }
    switches = ["--disable-shuffle", "--skip-chat-template", "--disable-tqdm", "--save-result"]
    command = [sys.executable, "-c", COMMAND, *switches, *(f"--{name}={value}" for name, value in flags.items())]
    told = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    if told.returncode or not result.exists():
        raise SystemExit(f"vllm bench serve ended with status {told.returncode}: {told.stderr[-300:]}")
    document: dict[str, Any] = json.loads(result.read_text("utf-8"))
    return document


def their_figures(result: dict[str, Any]) -> dict[str, float | None]:
    """Seconds and rates under our names."""
    return {
        **{ours: result[theirs] / 1000 for ours, theirs in SECONDS.items()},
        **{ours: result[theirs] for ours, theirs in RATES.items()},
        "failed": float(result["failed"]),
    }


def table(found: dict[str, Any]) -> str:
    """One line a figure: both clients, their ratio, and whether they agree."""
    ours, theirs, ratio = found["rows"]
    lines = []
    for name in (*SECONDS, *RATES):
        unit = 1e-3 if name in SECONDS else 1.0
        value = ratio[name]
        agrees = "-" if value is None else ("yes" if abs(value - 1) <= AGREES_WITHIN else "no")
        label = name.removesuffix("_s") + (", ms" if name in SECONDS else "")
        lines.append(
            (label, spread(ours, name, 2, unit), spread(theirs, name, 2, unit), spread(ratio, name, 3), agrees)
        )
    head = ("through the stack, tier 1", OURS, THEIRS, "ratio", f"within {AGREES_WITHIN:.0%}")
    notes = (
        f"{found['requests']} requests a round, {found['load']}; warm-up: {found['warm_up_requests']} requests thrown "
        f"away; failed: {number(ours['failed'], 0)} and {number(theirs['failed'], 0)}"
    )
    return f"{notes}\n\n{columns(head, lines)}"
