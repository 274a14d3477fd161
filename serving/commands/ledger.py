"""`ledger tail` and `ledger export`: print the booked requests, for people or for programs."""

import argparse
import contextlib
import sys
from pathlib import Path

from serving.commands.options import add_config, add_range
from serving.config import load_config
from serving.errors import ConfigInvalid
from serving.ledger.export import export_jsonl
from serving.ledger.reader import LedgerReader


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Both actions."""
    actions = parser.add_subparsers(required=True, metavar="ACTION")
    action = actions.add_parser("tail", help="the latest requests, one line each")
    action.add_argument("-n", type=int, default=20, help="how many (20)")
    action.add_argument("-f", "--follow", action="store_true", help="keep printing new ones until Ctrl-C")
    add_config(action)
    action.set_defaults(action=tail)
    action = actions.add_parser("export", help="every request with its attempts as JSON lines")
    action.add_argument("--out", type=Path, help="file to write (standard output)")
    add_range(action)
    add_config(action)
    action.set_defaults(action=export)


def run(args: argparse.Namespace) -> int:
    """Do the action that was named."""
    return int(args.action(args))


def tail(args: argparse.Namespace) -> int:
    """Print the latest rows."""
    for line in LedgerReader(load_config(args.config).ledger).tail(args.n, follow=args.follow):
        print(line, flush=True)
    return 0


def export(args: argparse.Namespace) -> int:
    """Write the rows as JSON lines."""
    try:
        with args.out.open("wb") if args.out else contextlib.nullcontext(sys.stdout.buffer) as out:
            export_jsonl(LedgerReader(load_config(args.config).ledger), out, args.since, args.until)
    except BrokenPipeError:
        raise  # the reader of standard output left (see serving/__main__.py)
    except OSError as error:
        raise ConfigInvalid(f"cannot write {args.out}: {error.strerror}") from error
    return 0
