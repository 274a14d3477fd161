"""`python -m models train-gate`: learn from graded pairs which drafts are good, from text and from further answers."""

import argparse

from models.heads import ForestShape
from models.router.train import add_arguments, train
from routing.heads.evidence import HeadKind

__all__ = ["add_arguments", "run"]

GATE_FOREST = ForestShape(n_trees=120, min_leaf=10, n_boosted=80)


def run(args: argparse.Namespace) -> str:
    """Train and say what was reached."""
    return train(args, HeadKind.GATE, GATE_FOREST)
