"""`python -m models history`: every step and refusal of a registry, oldest first."""

import argparse

from models.flywheel.promote import add_registry
from models.flywheel.registry import Registry, describe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of which registry."""
    add_registry(parser)


def run(args: argparse.Namespace) -> str:
    """One line a step."""
    lines = [describe(entry) for entry in Registry(args.registry).history()]
    return "\n".join(lines) if lines else "nothing was ever promoted"
