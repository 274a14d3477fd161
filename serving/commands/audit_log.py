"""`audit-log`: write a seeded log to try the audit on, or send its requests to a stack on this machine."""

import argparse
from pathlib import Path

from tqdm import tqdm

from serving.audit.example_log import lines
from serving.audit.send_sample import send_all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options: how many requests, and where they go."""
    parser.add_argument("--requests", type=int, default=1_000_000, help="lines to write (1,000,000)")
    parser.add_argument("--days", type=float, default=7.0, help="the time they are spread over (7)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same log (0)")
    parser.add_argument("--unnamed", action="store_true", help="name no categories, so that the texts must tell them")
    parser.add_argument(
        "--send", metavar="URL", help="send them to a stack on this machine and log its answers instead"
    )
    parser.add_argument("--concurrency", type=int, default=4, help="requests at the same time with --send (4)")
    parser.add_argument("--max-tokens", type=int, default=24, help="of an answer with --send (24)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")


def run(args: argparse.Namespace) -> int:
    """Write the file. Raises AuditError when an option cannot be used."""
    if args.send is not None:
        rows = lines(args.requests, args.days, args.seed)
        send_all(rows, args.send.rstrip("/"), args.out, args.requests, args.concurrency, args.max_tokens)
        return 0
    with args.out.open("wb") as out:
        for line in tqdm(lines(args.requests, args.days, args.seed, args.unnamed), total=args.requests, unit="req"):
            out.write(line)
    return 0
