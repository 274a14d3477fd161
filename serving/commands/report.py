"""`report`: compute from the ledger what the stack saved against sending everything to the frontier."""

import argparse
import sys
from pathlib import Path

from routing.cost.savings import SavingsConfig
from serving.commands.options import add_config, add_range
from serving.config import load_config
from serving.errors import ConfigInvalid
from serving.ledger.reader import LedgerReader
from serving.report.html import render as page
from serving.report.read import savings_report
from serving.report.table import render


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which requests, and in which form."""
    add_range(parser)
    parser.add_argument("--tenant", help="only this tenant")
    parser.add_argument("--kernel-speedup", type=float, help="engine seconds without / with kernel options, measured")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON document")
    parser.add_argument("--html", type=Path, help="also write it as one page that needs nothing else")
    add_config(parser)


def run(args: argparse.Namespace) -> int:
    """Compute the savings of a range and print them."""
    speedup = args.kernel_speedup
    if speedup is not None and speedup < 1:
        raise ConfigInvalid(f"--kernel-speedup is {speedup:g}: seconds without / with the options, so 1 or more")
    report = savings_report(
        LedgerReader(load_config(args.config).ledger),
        SavingsConfig(kernel_speedup=speedup),
        args.since,
        args.until,
        args.tenant,
        show_progress=sys.stderr.isatty(),
    )
    if args.html:
        try:
            args.html.write_text(page(report), encoding="utf-8")
        except OSError as error:
            raise ConfigInvalid(f"cannot write {args.html}: {error.strerror}") from error
    print(report.model_dump_json(indent=2) if args.json else render(report), end="\n" if args.json else "")
    return 0
