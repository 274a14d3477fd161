"""Play every row on its own setting of the engines, grade and add up: the document that table, plot and JSON share."""

import asyncio
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from benchmarks.layers import plan
from benchmarks.layers.claims import FRONTIER, Measured, compare
from benchmarks.layers.factors import ceiling, together
from benchmarks.layers.row import PARTS, Answered, Row, answered, make_row
from benchmarks.layers.system_prompts import body
from benchmarks.load.child_stack import Stack, forget, read_profile, stack, standin
from benchmarks.load.client import Sample, closed_loop, new_session, request
from benchmarks.tasks.command import some
from benchmarks.tasks.grading import grade
from benchmarks.tasks.suite import Split, tasks
from benchmarks.tasks.task import Task
from routing.records import RequestedModel, RequestRecord

ACCURACY_RATIO = 0.98  # of the frontier's accuracy: where the ceiling is asked for
REFERENCE = plan.Play("all tier 1", RequestedModel.TIER1)


class Load(NamedTuple):
    """What is asked in every row: the questions in their order, and one of each kind before them."""

    questions: list[Task]
    warm_up: list[Task]
    concurrency: int


class Played(NamedTuple):
    """One row before it is graded: samples by task, wall seconds, dollars an hour of the engines that it needed."""

    name: str
    samples: dict[str, Sample]
    wall_s: float
    rent_usd_per_hour: float

    def request_ids(self) -> list[str]:
        """Of the requests that got as far as a ledger row."""
        return [i for sample in self.samples.values() if (i := request_id(sample)) is not None]


def measure(path: Path, *, per_kind: int, concurrency: int, seed: int, quick: bool = False) -> dict[str, Any]:
    """Start, play, stop; the document. quick: one start and three rows. Raises LayersError."""
    profile = read_profile(path)
    load = Load(some(tasks(Split.TEST), per_kind, 0), some(tasks(Split.TRAIN), 1, 0), concurrency)
    random.Random(seed).shuffle(load.questions)
    settings = plan.quick() if quick else plan.settings(profile)
    rows: list[Row] = []
    requests: dict[str, tuple[Answered, ...]] = {}
    grades: dict[str, float] = {}
    n_plays = sum(len(setting.plays) for setting in settings)
    total = n_plays * (len(load.questions) + len(load.warm_up)) + len(load.questions)
    with (
        tqdm(total=total, desc="layers", unit="req", file=sys.stderr) as bar,
        standin(profile) as frontier,
    ):
        for setting in settings:
            with stack(path, profile, setting.engines) as running:
                played = []
                for play in setting.plays:
                    rent = plan.rent_usd_per_hour(profile, setting, play)
                    played.append(play_row(running, frontier, play, rent, load, bar))
                if setting is settings[-1]:
                    grades = reference(running, load, bar)
                booked = running.booked([i for one in played for i in one.request_ids()])
            for one in played:
                requests[one.name] = graded(load.questions, one.samples, booked)
                rows.append(make_row(one.name, requests[one.name], one.wall_s, one.rent_usd_per_hour))
    return document(Measured(rows=tuple(rows), requests=requests), grades, load)


def play_row(running: Stack, frontier: str, play: plan.Play, rent_usd_per_hour: float, load: Load, bar: Any) -> Played:
    """Play one row, from a cold frontier and with the system prompts of all kinds cached."""
    bar.set_description(play.name)
    running.lay_over(play.overrides)
    asyncio.run(forget(frontier))
    asyncio.run(ask(running.url, play, load.warm_up, load.concurrency, bar))
    samples, wall_s = asyncio.run(ask(running.url, play, load.questions, load.concurrency, bar))
    return Played(play.name, samples, wall_s, rent_usd_per_hour)


def reference(running: Stack, load: Load, bar: Any) -> dict[str, float]:
    """Tier 1's grade on every question. Its bill would be too low, as the row before has left the prompts cached."""
    bar.set_description(REFERENCE.name)
    samples, _ = asyncio.run(ask(running.url, REFERENCE, load.questions, load.concurrency, bar))
    return {answer.task: answer.quality for answer in graded(load.questions, samples, {})}


async def ask(
    url: str, play: plan.Play, questions: Sequence[Task], concurrency: int, bar: Any
) -> tuple[dict[str, Sample], float]:
    """Every question once, so many at a time. (samples by task, wall seconds). Samples start at 0 with the row."""
    samples: dict[str, Sample] = {}
    async with new_session() as session:

        async def send(number: int) -> Sample:
            task = questions[number]
            samples[task.id] = sample = await request(session, f"{url}/v1/chat/completions", body(task, play.model))
            bar.update()
            return sample

        _, wall_s = await closed_loop(send, requests=len(questions), concurrency=concurrency)
    began = min(sample.started_s for sample in samples.values())
    for sample in samples.values():
        sample.started_s -= began
    return samples, wall_s


def request_id(sample: Sample) -> str | None:
    """Of the ledger's row. None when the request did not get that far."""
    return None if sample.tierwise is None else str(sample.tierwise["request_id"])


def graded(
    questions: Sequence[Task], samples: Mapping[str, Sample], booked: Mapping[str, RequestRecord]
) -> tuple[Answered, ...]:
    """In the order of the questions. What failed is wrong."""
    found = []
    for task in questions:
        sample = samples[task.id]
        e2e_s = sample.e2e_s if sample.error is None else None
        done_s = None if e2e_s is None else sample.started_s + e2e_s
        quality = 0.0 if e2e_s is None else grade(task.verifier, sample.text)
        found.append(answered(task.id, quality, done_s, e2e_s, booked.get(request_id(sample) or "")))
    return tuple(found)


def document(measured: Measured, grades: Mapping[str, float], load: Load) -> dict[str, Any]:
    """Everything that was found, as plain values."""
    first, last = measured.rows[0], measured.rows[-1]
    throughputs = (first.throughput_rps, last.throughput_rps)
    whole = together(measured.requests[first.name], measured.requests[last.name], throughputs)
    drafted = [r.own_usd for r in measured.requests[last.name] if r.drafted and r.own_usd is not None]
    best = None
    if drafted:
        best = ceiling(grades, measured.requests[FRONTIER], sum(drafted) / len(drafted), ACCURACY_RATIO)
    return {
        "questions": len(load.questions),
        "warm_up": len(load.warm_up),
        "concurrency": load.concurrency,
        "rows": [row_values(row) for row in measured.rows],
        "factors": [factor.model_dump(mode="json") for factor in measured.factors()],
        "together": whole.model_dump(mode="json"),
        "tier1_accuracy": sum(grades.values()) / len(grades),
        "ceiling": None if best is None else best.model_dump(mode="json"),
        "claims": [claim.model_dump(mode="json") for claim in compare(measured, whole, best)],
    }


def row_values(row: Row) -> dict[str, Any]:
    """A row as benchmarks/run/spread.py has it: NAME and NAME_spread.

    Of dollars and accuracy the spread is the interval over questions, of the throughput it is that of the row's parts.
    """
    values = row.model_dump(
        mode="json", exclude={"name", "usd", "accuracy", "throughput_low_rps", "throughput_high_rps"}
    )
    return {
        "row": row.name,
        "rounds": PARTS,
        "usd": row.usd.value,
        "usd_spread": None if row.usd.value is None else [row.usd.low, row.usd.high],
        "accuracy": row.accuracy.value,
        "accuracy_spread": [row.accuracy.low, row.accuracy.high],
        "throughput_rps_spread": [row.throughput_low_rps, row.throughput_high_rps],
        **values,
    }
