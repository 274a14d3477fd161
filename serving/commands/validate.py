"""`validate`: read a profile exactly as `serve` would, trained heads and promoted configuration included."""

import argparse
from functools import partial
from pathlib import Path

import yaml

from routing.learning.release import RELEASE_FILE
from serving.artefacts.heads import read_learned
from serving.config import load_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile, and whether to print it."""
    parser.add_argument("config", type=Path, help="the profile to check")
    parser.add_argument("--show", action="store_true", help="print the resolved tree, secrets masked")


def run(args: argparse.Namespace) -> int:
    """Check the profile and print the result. Raises ConfigInvalid, which names every wrong key."""
    config = load_config(args.config)
    read_learned(config.policy, config.gate)
    if args.show:
        print(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")
    print(f"{args.config} is valid; config hash {config.hash}")
    if config.promotion.registry is not None and (path := config.promotion.registry / RELEASE_FILE).exists():
        from serving.app import running  # noqa: PLC0415 - imports Ray
        from serving.cascade.releases import load  # noqa: PLC0415

        release = load(path, partial(running, config)).release
        print(f"{path} is valid; stable version {release.stable.version}")
    return 0
