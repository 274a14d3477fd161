"""`python -m benchmarks flywheel`: one turn on real engines, with before and after. What `make flywheel-demo` runs."""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.flywheel.figures import ALL, ENOUGH, document, shown
from benchmarks.flywheel.operator import TurnFailed
from benchmarks.flywheel.turn import Plan, turn
from benchmarks.load.text_table import columns
from benchmarks.run.card import make_card

RESULTS = Path("benchmarks/results")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """With which adapter, on how many questions."""
    parser.add_argument("--profile", type=Path, default=Path("deploy/profiles/cpu.yaml"), metavar="FILE")
    parser.add_argument("--adapter", type=Path, required=True, metavar="DIR", help="what train-tier1 wrote")
    parser.add_argument(
        "--per-kind-test", type=int, default=10, help="questions of each kind to serve before and after"
    )
    parser.add_argument("--per-kind-labels", type=int, default=20, help="of each kind to train heads, and to judge")
    parser.add_argument("--quality-target", type=float, default=0.8, help="share of the frontier's quality to keep")
    parser.add_argument("--margin", type=float, default=0.05, help="quality that a category may lose (0..1)")
    parser.add_argument("--seed", type=int, default=0, help="of the questions")
    parser.add_argument("--files", type=Path, metavar="DIR", help="keep registry, heads, labels and ledger there")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help=f"flywheel.json and .png ({RESULTS})")


def run(args: argparse.Namespace) -> int:
    """Run one turn and print both tables and what the gate said. Returns 1 when a step failed."""
    began = time.perf_counter()
    with contextlib.ExitStack() as stack:
        files = args.files or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tierwise-flywheel-")))
        if files.is_dir() and any(files.iterdir()):
            print(f"error: --files {files} is not empty: a turn begins with a ledger of its own", file=sys.stderr)
            return 2
        files.mkdir(parents=True, exist_ok=True)
        plan = Plan(
            args.profile, args.adapter, files.resolve(), args.per_kind_test, args.per_kind_labels,
            args.quality_target, args.margin, args.seed,
        )  # fmt: skip
        try:
            found = document(turn(plan), args.quality_target)
        except TurnFailed as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    found["took_s"] = round(time.perf_counter() - began, 1)
    settings = {name: value for name, value in vars(args).items() if name not in ("out", "name", "files")}
    card = make_card(settings, {"adapter": str(args.adapter)}, args.seed)
    print(report(found))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "flywheel.json").write_text(json.dumps({"card": card, **found}, indent=1) + "\n", encoding="utf-8")
    from benchmarks.flywheel.plot import plot  # noqa: PLC0415 - matplotlib is an extra

    plot(found, args.out / "flywheel.png")
    print(json.dumps({"card": card, **found}))
    return 0


def report(found: dict[str, Any]) -> str:
    """The tables as text."""
    head = ("tier 1 on held-out questions", "n", "base", "adapter", "frontier", "adapter ÷ frontier", "gain")
    rows = [
        [row["name"], str(row["n"]), *(shown(row[k]) for k in ("base", "adapter", "frontier")),
         shown(row["adapter_of_frontier"]), shown(row["gain"])]
        for row in [*(r for r in found["kinds"] if r["name"] != ALL), *found["categories"]]
    ]  # fmt: skip
    served = [
        [row["name"], *(shown(row[k]) for k in ("accuracy", "of_frontier", "frontier_share", "usd_per_1000"))]
        for row in found["served"]
    ]
    reaching = found["categories_at_or_above_enough"]
    said = [f"{ENOUGH} of the frontier or more: {len(reaching)} categories ({', '.join(reaching) or 'none'})"]
    said += [f"refused: {why}" for why in found["refused"]]
    said.append(f"promoted for: {', '.join(found['promoted_for']) or 'nothing; what ran before still runs'}")
    if found["change"] is not None:
        said.append("after against before: " + ", ".join(f"{k} {shown(v)}" for k, v in found["change"].items()))
    return "\n".join(
        [
            columns(head, rows),
            "",
            columns(("auto", "accuracy", "of frontier", "frontier share", "usd/1k requests"), served),
            "",
            *said,
            f"{found['n_labels']} labels, {found['took_s']:.0f} s",
        ]
    )
