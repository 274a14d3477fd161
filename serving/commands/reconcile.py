"""`reconcile`: compare the ledger with a provider's usage export, by day and model."""

import argparse
from pathlib import Path

from routing.cost.reconcile import reconcile
from serving.commands.options import add_config, add_range
from serving.config import load_config
from serving.errors import ConfigInvalid
from serving.ledger.reader import LedgerReader
from serving.report.provider_usage import fields_named, ledger_usage, read_export
from serving.report.reconciliation import render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options: the export, its provider and how to read it."""
    parser.add_argument("--usage", required=True, type=Path, help="the provider's export, CSV or JSON")
    parser.add_argument("--provider", required=True, help="the provider's name in the profile")
    parser.add_argument("--fields", required=True, help="openai, anthropic, or a YAML file that maps the fields")
    add_range(parser)
    parser.add_argument("--json", action="store_true", help="print it as one JSON document")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Print what differs. Exit status 1 when anything does."""
    config = load_config(args.config)
    names = [provider.name for provider in config.frontier.providers]
    if args.provider not in names:
        raise ConfigInvalid(f"the profile has no provider {args.provider!r}; it has: {', '.join(names)}")
    rows = LedgerReader(config.ledger).requests(args.since, args.until)
    found = reconcile(ledger_usage(rows, args.provider), read_export(args.usage, fields_named(args.fields)))
    print(found.model_dump_json(indent=2) if args.json else render(found), end="\n" if args.json else "")
    return 0 if found.agrees else 1
