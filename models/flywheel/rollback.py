"""`python -m models rollback`: drop the canary, or go back to the version before."""

import argparse

from models.flywheel.promote import add_registry
from models.flywheel.registry import Registry
from models.flywheel.steps import roll_back


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """To which version, and why."""
    add_registry(parser)
    parser.add_argument("--to", type=int, metavar="VERSION", help="none: drop the canary, or undo the last promotion")
    parser.add_argument("--reason", default="by hand", help="for the record")


def run(args: argparse.Namespace) -> str:
    """Go back; the release that serving runs from now on."""
    registry = Registry(args.registry)
    with registry.lock():
        return roll_back(registry, args.to, reasons=(args.reason,)).model_dump_json(indent=1)
