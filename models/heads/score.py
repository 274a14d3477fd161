"""`python -m models score`: what an artefact says of graded pairs, one JSON object a line, for the benchmarks."""

import argparse
import json
from pathlib import Path

from models.heads.pairs import load_pairs
from routing.heads.evidence import HeadKind, evidence_of
from serving.artefacts.heads import read_panel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which artefact, which pairs."""
    parser.add_argument("--artefact", type=Path, required=True, metavar="DIR")
    parser.add_argument("--kind", type=HeadKind, choices=list(HeadKind), default=HeadKind.ROUTER)
    parser.add_argument("--pairs", type=Path, required=True, metavar="FILE")
    parser.add_argument("--max-answers", type=int, default=None, help="use at most so many of the further answers")


def run(args: argparse.Namespace) -> str:
    """One line a pair: its id and category, and the fields of routing.heads.head.Scores."""
    panel = read_panel(args.artefact, args.kind)
    lines = []
    for pair in load_pairs(args.pairs):
        shown = pair.model_copy(update={"other_answers": pair.other_answers[: args.max_answers]})
        scores = panel.score(evidence_of(shown, args.kind))
        lines.append(json.dumps({"id": pair.id, "category": pair.category, **scores.model_dump()}))
    return "\n".join(lines)
