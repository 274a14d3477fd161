"""`new-key`: make an API key for a tenant."""

import argparse
import sys

import yaml

from serving.access.keys import new_key


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Who the key belongs to, and what it may do."""
    parser.add_argument("tenant", help="who the key belongs to")
    parser.add_argument("--admin", action="store_true", help="may read /metrics")


def run(args: argparse.Namespace) -> int:
    """Print the key to standard error, once. Print the entry for the keys file to standard output."""
    plain, entry = new_key(args.tenant, admin=args.admin)
    print(f"the key, shown only now: {plain}", file=sys.stderr)
    print(yaml.safe_dump([entry.model_dump(mode="json")], sort_keys=False), end="")
    return 0
