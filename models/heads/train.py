"""`python -m models train-router` and `train-gate`: learn from graded pairs.

A router learns which prompts tier 1 answers as well as the frontier, a gate which drafts are good.
"""

import argparse
import json
from pathlib import Path

from models.heads.fit import ForestShape
from models.heads.pairs import load_pairs
from models.heads.train_panel import train_panel
from routing.heads.evidence import HeadKind
from routing.learning.labels import split_by_prompt

ROUTER_FOREST = ForestShape(n_trees=100, min_leaf=20)
GATE_FOREST = ForestShape(n_trees=120, min_leaf=10, n_boosted=80)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which pairs, where to, which split."""
    parser.add_argument("--pairs", type=Path, nargs="+", required=True, metavar="FILE", help="graded pairs, JSON lines")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the artefact's folder")
    parser.add_argument(
        "--holdout-ratio",
        type=float,
        default=0.0,
        help="share of questions (0..1) to leave unseen for `calibrate` on the same files",
    )
    parser.add_argument("--seed", type=int, default=0, help="of folds, forest and holdout")


def run(args: argparse.Namespace) -> str:
    """Train the kind of head that the command names, and say what was reached."""
    if args.command == "train-gate":
        return train(args, HeadKind.GATE, GATE_FOREST)
    return train(args, HeadKind.ROUTER, ROUTER_FOREST)


def train(args: argparse.Namespace, kind: HeadKind, shape: ForestShape) -> str:
    """Train one kind of head on the files of a command line; JSON with the out-of-fold metrics."""
    sources = [
        (path.name.split(".")[0], split_by_prompt(load_pairs(path), args.holdout_ratio, args.seed)[0])
        for path in args.pairs
    ]
    manifest = train_panel(kind, sources, shape, args.out, args.seed)
    return json.dumps(
        {
            "kind": kind,
            "out": str(args.out),
            "n_pairs": manifest.n_pairs,
            "seed": args.seed,
            "tensors_sha256": manifest.tensors_sha256,
            "out_of_fold": manifest.metrics,
        },
        indent=1,
    )
