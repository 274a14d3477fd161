"""`python -m benchmarks tasks`: export the suite, grade answers to it, run it against a stack."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.tasks.grading import grade
from benchmarks.tasks.suite import Split, tasks
from benchmarks.tasks.task import Task


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, and with which split."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    export = actions.add_parser("export", help="write the questions of one split, one JSON object a line")
    export.add_argument("--split", type=Split, choices=list(Split), required=True)
    export.add_argument("--out", type=Path, required=True, metavar="FILE")
    export.add_argument("--seed", type=int, default=0, help="of the questions; splits of one seed share none")
    grading = actions.add_parser("grade", help="grade answers by program; JSON lines on stdout")
    grading.add_argument("--tasks", type=Path, required=True, metavar="FILE", help="what `export` wrote")
    grading.add_argument(
        "--answers", type=Path, required=True, metavar="FILE", help='JSON lines: {"id": of a task, "output": text}'
    )


def run(args: argparse.Namespace) -> int:
    """Do it; 2 when a file is not what it should be."""
    try:
        return {"export": export_tasks, "grade": grade_answers}[args.action](args)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def export_tasks(args: argparse.Namespace) -> int:
    """Write one split."""
    made = tasks(args.split, args.seed)
    write_tasks(args.out, made)
    print(json.dumps({"split": args.split, "seed": args.seed, "n_tasks": len(made), "out": str(args.out)}))
    return 0


def grade_answers(args: argparse.Namespace) -> int:
    """One line an answer: {"id", "kind", "category", "quality"}; raises ValueError for an id that no task has."""
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
