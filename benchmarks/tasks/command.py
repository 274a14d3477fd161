"""`python -m benchmarks tasks`: export the suite, run it against a stack, make pairs of it, report, grade answers."""

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.tasks import strategies
from benchmarks.tasks.asking import ask_all
from benchmarks.tasks.grading import grade
from benchmarks.tasks.pairs import join, read_answers, read_ledger
from benchmarks.tasks.report import (
    family_rows,
    head_times,
    heads_row,
    last_line,
    read_panel,
    really_run,
    show,
    strategy_row,
)
from benchmarks.tasks.suite import Split, tasks
from benchmarks.tasks.task import Task
from routing.heads.evidence import HeadKind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which split."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    export = actions.add_parser("export", help="write the questions of one split, one JSON object a line")
    export.add_argument("--split", type=Split, choices=list(Split), required=True)
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.add_argument("--seed", type=int, default=0, help="of the questions; splits of one seed share none")
    asking = actions.add_parser("run", help="ask a running stack every question of a split; answers as JSON lines")
    asking.add_argument("--split", type=Split, choices=list(Split), required=True)
    asking.add_argument("--out", type=Path, required=True, metavar="FILE")
    asking.add_argument("--seed", type=int, default=0)
    asking.add_argument("--per-family", type=int, default=None, metavar="N", help="only the first N of each family")
    asking.add_argument("--skip", type=int, default=0, metavar="N", help="without the first N of each family")
    asking.add_argument("--model", nargs="+", default=["tier1", "frontier"], help="model names to ask, in turn")
    asking.add_argument("--url", default="http://127.0.0.1:8000")
    asking.add_argument("--concurrency", type=int, default=16)
    pairing = actions.add_parser("pairs", help="graded pairs for training, from answers and the ledger")
    report = actions.add_parser("report", help="the table: every strategy on the answers of one split")
    for command in (pairing, report):
        command.add_argument("--split", type=Split, choices=list(Split), required=True)
        command.add_argument("--seed", type=int, default=0)
        command.add_argument("--answers", type=Path, nargs="+", required=True, metavar="FILE", help="what `run` wrote")
        command.add_argument(
            "--ledger", type=Path, required=True, metavar="FILE", help="what `python -m serving ledger export` wrote"
        )
    pairing.add_argument("--out", type=Path, required=True, metavar="FILE")
    report.add_argument("--artefact", type=Path, required=True, metavar="DIR", help="trained router and gate")
    report.add_argument("--quality-target", type=float, default=0.98)
    report.add_argument("--plot", type=Path, metavar="DIR")
    grading = actions.add_parser("grade", help="grade answers by program; JSON lines on stdout")
    grading.add_argument("--tasks", type=Path, required=True, metavar="FILE", help="what `export` wrote")
    grading.add_argument(
        "--answers", type=Path, required=True, metavar="FILE", help='JSON lines: {"id": of a task, "output": text}'
    )


def run(args: argparse.Namespace) -> int:
    """Run the chosen action. Returns 2 when a file is not what it should be."""
    try:
        return ACTIONS[args.action](args)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def export_tasks(args: argparse.Namespace) -> int:
    """Write one split."""
    made = tasks(args.split, args.seed)
    write_tasks(args.out, made)
    print(json.dumps({"split": args.split, "seed": args.seed, "n_tasks": len(made), "out": str(args.out)}))
    return 0


def ask_stack(args: argparse.Namespace) -> int:
    """Ask, and print how many answers came and how many were right. Returns 1 when any failed."""
    made = some(tasks(args.split, args.seed), args.per_family, args.skip)
    by_id = {task.id: task for task in made}
    started = time.perf_counter()
    answers = asyncio.run(ask_all(args.url, made, args.model, args.concurrency))
    args.out.write_text("".join(answer.model_dump_json() + "\n" for answer in answers), encoding="utf-8")
    failed = [answer for answer in answers if answer.output is None]
    for answer in failed[:5]:
        print(f"failed: {answer.task} {answer.model}: {answer.error}", file=sys.stderr)
    right = {
        model: sum(
            grade(by_id[a.task].verifier, a.output) for a in answers if a.model == model and a.output is not None
        )
        for model in args.model
    }
    took_s = time.perf_counter() - started
    print(json.dumps({"n_tasks": len(made), "right": right, "failed": len(failed), "took_s": round(took_s, 1)}))
    return 1 if failed else 0


def make_pairs(args: argparse.Namespace) -> int:
    """Join, grade, write."""
    asked = join(tasks(args.split, args.seed), read_answers(args.answers), read_ledger(args.ledger))
    args.out.write_text("".join(one.pair.model_dump_json() + "\n" for one in asked), encoding="utf-8")
    print(json.dumps({"split": args.split, "n_pairs": len(asked), "out": str(args.out)}))
    return 0


def report(args: argparse.Namespace) -> int:
    """Replay every strategy. With answers of `auto` among the files, also what was really done."""
    made, answers, ledger = tasks(args.split, args.seed), read_answers(args.answers), read_ledger(args.ledger)
    asked = join(made, answers, ledger)
    data = strategies.columns(asked)
    router, gate = (read_panel(args.artefact, kind) for kind in (HeadKind.ROUTER, HeadKind.GATE))
    pairs = [one.pair for one in asked]
    times = head_times(pairs, router, "router") | head_times(pairs, gate, "gate")  # first of all: texts are kept later
    ours = strategies.learned(asked, data, router, gate, args.quality_target)
    outcomes = [*strategies.baselines(data, float(1 - ours[-1].shown.mean())), *ours]
    rows = [strategy_row(outcome, data) for outcome in outcomes]
    auto = [answer for answer in answers if answer.model == "auto"]
    if auto:
        done, row = really_run({t.id: t for t in made}, auto, ledger, data, [one.task.id for one in asked])
        rows.append({**row, "as_predicted": float(np.mean(done.shown == ours[-1].shown))})
    families = family_rows(asked, args.quality_target)
    scores = {"router": strategies.p_tier1_ok(asked, router), "gate": strategies.p_accept(asked, gate)}
    heads = heads_row(scores["router"], scores["gate"], data) | times
    print(f"{len(asked)} tasks of {args.split}, seed {args.seed}, quality target {args.quality_target}")
    show(families, ("kind", "n", "tier1", "frontier", "tier1_of_frontier", "escalate_at_least", "escalate_at_random"))
    show(rows, ("strategy", "accuracy", "accuracy_low", "accuracy_high", "of_frontier", "of_frontier_low",
                "frontier_share", "usd_per_1000", "bad_shown", "good_lost"))  # fmt: skip
    show([{"heads": "on this split", **heads}], ("heads", *heads))
    if args.plot:
        from benchmarks.tasks.plots import plot  # noqa: PLC0415 - matplotlib is an extra

        plot(args.plot, data, scores, rows)
    print(last_line(split=args.split, quality_target=args.quality_target, families=families, rows=rows, heads=heads))
    return 0


def some(made: Sequence[Task], per_family: int | None, skip: int) -> list[Task]:
    """A window of every family's questions, in their order."""
    seen: Counter[str] = Counter()
    window = []
    for task in made:
        if skip <= seen[task.kind] and (per_family is None or seen[task.kind] < skip + per_family):
            window.append(task)
        seen[task.kind] += 1
    return window


def grade_answers(args: argparse.Namespace) -> int:
    """One line an answer: {"id", "kind", "category", "quality"}. Raises ValueError for an id that no task has."""
    by_id = {task.id: task for task in read_tasks(args.tasks)}
    for number, line in enumerate(args.answers.read_text(encoding="utf-8").splitlines(), start=1):
        answer = json.loads(line)
        task = by_id.get(answer.get("id"))
        if task is None or not isinstance(answer.get("output"), str):
            raise ValueError(f"{args.answers}: line {number} names no task of {args.tasks} or has no text `output`")
        quality = grade(task.verifier, answer["output"])
        print(json.dumps({"id": task.id, "kind": task.kind, "category": task.category, "quality": quality}))
    return 0


def write_tasks(path: Path, made: Sequence[Task]) -> None:
    """One task a line."""
    path.write_text("".join(task.model_dump_json() + "\n" for task in made), encoding="utf-8")


def read_tasks(path: Path) -> list[Task]:
    """What `write_tasks` wrote. Raises OSError, ValueError naming the line."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            found.append(Task.model_validate_json(line))
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is no task: {error}") from error
    return found


ACTIONS = {
    "export": export_tasks,
    "run": ask_stack,
    "pairs": make_pairs,
    "report": report,
    "grade": grade_answers,
}
