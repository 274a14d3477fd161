"""`python -m benchmarks layers`: starts everything itself, plays every row, prints card, table, claims and JSON."""

import argparse
import json
import sys
import time
from pathlib import Path

import yaml

from benchmarks.layers.measure import measure
from benchmarks.layers.section import CONCURRENCY, PER_KIND, plot, table
from benchmarks.load.child_stack import LayersError
from benchmarks.load.dummy_weights import MODELS
from benchmarks.run.card import make_card, text

PROFILE = Path("deploy/profiles/cpu.yaml")
QUICK_PER_KIND = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many questions, on what."""
    parser.add_argument("--profile", type=Path, default=PROFILE, help=f"with a stand-in frontier ({PROFILE})")
    parser.add_argument("--per-kind", type=int, help=f"questions of each of the 14 kinds ({PER_KIND})")
    parser.add_argument("--concurrency", type=int, default=CONCURRENCY, help=f"requests under way ({CONCURRENCY})")
    parser.add_argument("--seed", type=int, default=0, help="of the questions' order")
    parser.add_argument(
        "--quick", action="store_true", help=f"one start: all frontier, routing, gate; {QUICK_PER_KIND} of a kind"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it there, .png or .svg")
    parser.add_argument("--out", type=Path, help="also write the JSON document here")


def run(args: argparse.Namespace) -> int:
    """Measure and print. Returns 2 when profile or machine do not allow it, 1 when a request failed."""
    began = time.perf_counter()
    per_kind = args.per_kind or (QUICK_PER_KIND if args.quick else PER_KIND)
    try:
        found = measure(args.profile, per_kind=per_kind, concurrency=args.concurrency, seed=args.seed, quick=args.quick)
    except LayersError as error:
        print(f"layers: {error}", file=sys.stderr)
        return 2
    config = {"profile": yaml.safe_load(args.profile.read_text("utf-8")), "per_kind": per_kind, "quick": args.quick}
    models = {path.name: None for path in sorted(MODELS.glob("*"))}
    document = {"card": make_card(config, models, args.seed), **found, "took_s": time.perf_counter() - began}
    print(text(document["card"]))
    print(f"\n{table(found)}\n\ntook {document['took_s'] / 60:.1f} minutes")
    if args.plot is not None:
        args.plot.parent.mkdir(parents=True, exist_ok=True)
        plot(found, args.plot)
    line = json.dumps(document)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(line + "\n")
    print(line)
    return 1 if any(row["failed"] for row in found["rows"]) else 0
