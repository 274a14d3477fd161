"""Options that several commands share."""

import argparse
from pathlib import Path

DEFAULT_PROFILE = "deploy/profiles/cpu.yaml"


def add_config(parser: argparse.ArgumentParser) -> None:
    """`--config`: the profile whose ledger a command works on."""
    parser.add_argument("--config", default=DEFAULT_PROFILE, type=Path, help=f"profile ({DEFAULT_PROFILE})")


def add_range(parser: argparse.ArgumentParser) -> None:
    """`--since` and `--until`: the half-open range of time that a command reads."""
    parser.add_argument("--since", help="first moment, ISO 8601 UTC (the first request)")
    parser.add_argument("--until", help="first moment no longer counted, ISO 8601 UTC")
