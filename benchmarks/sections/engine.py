"""The engine section: tier 1 through the stack, beside vLLM's own server with the same engine, in turns.

Closed loop over concurrencies and lengths for throughput. No prompt is repeated, so that no cache helps either side.
A third arm sends to the server through the stack: there even the engine's process is the same.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from tqdm import tqdm

from benchmarks.load.client import Sample, closed_loop, new_session, request
from benchmarks.load.figures import Slo, figures, first_error
from benchmarks.load.targets import Target, chat
from benchmarks.load.text_table import columns, number, spread
from benchmarks.load.workload import Workload
from benchmarks.run.lab import Lab, Labs
from benchmarks.run.plan import Plan
from benchmarks.run.spread import arms_order, over_rounds, ratios

# Of every (cell, arm), the figures of its rounds.
Seen = dict[tuple[str, str], list[dict[str, float | None]]]
DIRECT, TIER1, BEHIND = "direct", "through, tier1", "through, same process"


@dataclass(frozen=True, slots=True)
class Cell:
    """One load: `requests` in all, `concurrency` of them at a time, prompts of about so many tokens."""

    length: str
    input_words: int
    output_tokens: int
    concurrency: int
    requests: int

    @property
    def name(self) -> str:
        """As rows call it."""
        return f"{self.length}, {self.concurrency} at a time"

    def prompts(self, seed: str) -> list[list[dict[str, str]]]:
        """So many messages that nobody else sends."""
        load = Workload(
            name=seed, sessions=self.requests, user_words=self.input_words, output_tokens=1, seed=hash_of(seed)
        )
        return [[load.question(session, 0)] for session in range(self.requests)]


def hash_of(text: str) -> int:
    """A seed from a text, the same in every process."""
    return int.from_bytes(text.encode(), "big") % (2**61 - 1)


def cells(lab: str, quick: bool) -> list[Cell]:
    """What is measured where: a slow engine gets fewer requests, a quick run the middle alone."""
    several = 1 if lab == "real" else 2 if quick else 3
    sizes = {"short": (48, 32), "long": (384, 16)}
    levels: dict[str, tuple[int, ...]] = {"short": (1, 4, 8), "long": (1, 4) if lab == "real" else (1, 4, 8)}
    if quick:
        levels = {"short": (1, 8), "long": (4,)}
    return [
        Cell(length, *sizes[length], concurrency, max(2, concurrency) * several)
        for length, at_a_time in levels.items()
        for concurrency in at_a_time
    ]


def measure(plan: Plan, labs: Labs) -> dict[str, Any]:
    """Rows of every lab, cell and arm, and of the ratio of the arms in each round."""
    slos: dict[str, str] = {}
    names = ["running"] if plan.url else ["tiny"] if plan.quick else ["real", "tiny"]  # other sections go on in tiny
    rows: list[dict[str, Any]] = []
    warm_up = 0
    for name in names:
        lab = labs.enter(name)
        slos[name] = slo_text(lab.slo)
        found, sent = asyncio.run(measure_lab(lab, rounds_of(name, plan), plan.seed, plan.quick))
        rows += found
        warm_up += sent
    return {"rows": rows, "warm_up_requests": warm_up, "goodput": slos}


def warming(loads: Sequence[Cell]) -> list[Cell]:
    """The fullest load of each length: what round 0 sends before anything counts."""
    return list({cell.length: cell for cell in sorted(loads, key=lambda cell: cell.concurrency)}.values())


def rounds_of(lab: str, plan: Plan) -> int:
    """A slow engine gets three rounds at most."""
    return min(plan.rounds, 3) if lab == "real" else plan.rounds


async def measure_lab(lab: Lab, rounds: int, seed: int, quick: bool = False) -> tuple[list[dict[str, Any]], int]:
    """Rounds in which the arms take turns. (rows, requests that warmed up and were thrown away)."""
    arms = {DIRECT: lab.direct, TIER1: lab.tier1, BEHIND: None if quick else lab.behind}
    targets = {arm: target for arm, target in arms.items() if target is not None}
    loads = cells(lab.name, quick)
    seen: Seen = {
        (cell.name, arm): []
        for cell in loads
        for arm in targets
        if arm != BEHIND or cell.name == "short, 4 at a time"  # one load is enough to see whether the process matters
    }
    errors: dict[tuple[str, str], str] = {}
    warm_up = 0
    async with new_session() as session:
        with tqdm(
            total=rounds * len(loads) + len(warming(loads)), desc=f"engine, {lab.name}", unit="cell", file=sys.stderr
        ) as bar:
            for number_of_round in range(rounds + 1):
                for cell in loads if number_of_round else warming(loads):
                    for arm in arms_order(list(targets), number_of_round):
                        if (cell.name, arm) not in seen:
                            continue
                        # Only two arms have an engine of their own: the third sends prompts that neither has seen.
                        prompts = cell.prompts(f"{seed} {number_of_round} {cell.name} {arm == BEHIND}")
                        samples, wall_s = await send_all(session, targets[arm], prompts, cell)
                        if number_of_round == 0:
                            warm_up += len(samples)
                        else:
                            seen[cell.name, arm].append(figures(samples, wall_s, lab.slo))
                        if (error := first_error(samples)) is not None:
                            errors.setdefault((cell.name, arm), error)
                    bar.update()
    return [*arm_rows(lab, seen, errors), *ratio_rows(lab, seen)], warm_up


async def send_all(
    session: aiohttp.ClientSession, target: Target, prompts: Sequence[list[dict[str, str]]], cell: Cell
) -> tuple[list[Sample], float]:
    """Every prompt once, streamed. Both engines answer it with the same tokens, so no side may stop sooner."""

    async def send(place: int) -> Sample:
        body = chat(target.model, prompts[place], cell.output_tokens)
        return await request(session, f"{target.url}/v1/chat/completions", body)

    return await closed_loop(send, requests=len(prompts), concurrency=cell.concurrency)


def arm_rows(lab: Lab, seen: Seen, errors: dict[tuple[str, str], str]) -> list[dict[str, Any]]:
    """One row a cell and arm."""
    return [
        {
            "row": f"{lab.name}, {cell}, {arm}",
            "lab": lab.name,
            "cell": cell,
            "arm": arm,
            "first_error": errors.get((cell, arm)),
            **over_rounds(rounds),
        }
        for (cell, arm), rounds in seen.items()
    ]


def ratio_rows(lab: Lab, seen: Seen) -> list[dict[str, Any]]:
    """One row a cell and arm through the stack: its throughput over the direct one's, and what its TTFT adds."""
    rows = []
    for (cell, arm), rounds in seen.items():
        if arm == DIRECT or (direct := seen.get((cell, DIRECT))) is None:
            continue
        throughput = ratios(rounds, direct, "output_tps")
        added = [
            None if (a := ours["ttft_p50_s"]) is None or (b := theirs["ttft_p50_s"]) is None else a - b
            for ours, theirs in zip(rounds, direct, strict=True)
        ]
        compared = [{"output_tps_ratio": r, "ttft_added_s": a} for r, a in zip(throughput, added, strict=True)]
        rows.append(
            {
                "row": f"{lab.name}, {cell}, {arm} / direct",
                "lab": lab.name,
                "cell": cell,
                "arm": arm,
                **over_rounds(compared),
            }
        )
    return rows


def table(found: dict[str, Any]) -> str:
    """Figures of every arm, then the ratios. Times in milliseconds."""
    head = ("load", "arm", "tokens/s", "TTFT p50 ms", "p99", "TPOT ms", "ITL p50/p99 ms", "goodput/s", "failed")
    lines, compared = [], []
    for row in found["rows"]:
        load = f"{row['lab']}, {row['cell']}"
        if "output_tps_ratio" in row:
            ratio = spread(row, "output_tps_ratio", 3)
            compared.append((load, row["arm"], ratio, spread(row, "ttft_added_s", 1, 1e-3)))
            continue
        gaps = f"{number(row['itl_p50_s'], 1, 1e-3)} / {number(row['itl_p99_s'], 1, 1e-3)}"
        lines.append(
            (
                load,
                row["arm"],
                spread(row, "output_tps", 1),
                spread(row, "ttft_p50_s", 0, 1e-3),
                number(row["ttft_p99_s"], 0, 1e-3),
                number(row["tpot_p50_s"], 1, 1e-3),
                gaps,
                number(row["goodput_rps"], 2),
                number(row["failed"], 0),
            )
        )
    notes = [f"goodput of {lab}: {limits}" for lab, limits in found["goodput"].items()]
    parts = ["\n".join([f"warm-up: {found['warm_up_requests']} requests thrown away", *notes]), columns(head, lines)]
    errors = [f"{row['row']}: {row['first_error']}" for row in found["rows"] if row.get("first_error")]
    parts += ["\n".join(errors)] if errors else []
    if compared:
        parts.append(columns(("over direct, same round", "arm", "tokens/s ratio", "TTFT added ms"), compared))
    return "\n\n".join(parts)


def plot(found: dict[str, Any], path: Any) -> None:
    """Throughput and first token of every arm."""
    from benchmarks.run.plots import bars  # noqa: PLC0415 - matplotlib is an extra

    rows = [row for row in found["rows"] if "output_tps" in row]
    bars(path, rows, {"output_tps": "output tokens/s", "ttft_p50_s": "TTFT p50, s"})


def slo_text(slo: Slo) -> str:
    """As the table's caption has it."""
    return f"first token within {slo.ttft_s:g} s, each further one within {slo.tpot_s * 1000:g} ms"
