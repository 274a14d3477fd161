"""The commands of the server: `python -m serving COMMAND`.

A command is a line in COMMANDS and a module with `add_arguments(parser)` and `run(args) -> exit status`. A module is
imported only when its command is called, since some import Ray.
"""

import argparse
import importlib
import os
import sys

# Ray reads these when it is imported: no usage reports, the handle path without its extra thread hop, and engines that
# are not at a lower priority than everything else on the machine (Ray's default niceness is 15). The oddly named one
# lets a Ray that will never be a cluster keep 127.0.0.1 as its address (see serving/process/loopback.py).
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_SERVE_THROUGHPUT_OPTIMIZED", "1")
os.environ.setdefault("RAY_SERVE_ENABLE_DIRECT_INGRESS", "0")  # what the line above turns on: a second port a gateway
os.environ.setdefault("RAY_worker_niceness", "0")
os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's own default since 2.60; its ports carry pickles
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")  # a machine that is busy starting engines is slow

from serving.errors import StackError

COMMANDS = {
    # name: (module, what it does)
    "serve": ("serving.commands.serve", "start the whole stack and serve until Ctrl-C"),
    "validate": ("serving.commands.validate", "check a profile; exit status 2 and every wrong key when it is bad"),
    "plan": ("serving.commands.plan", "the memory of every engine; exit status 2 when they do not fit"),
    "build": ("serving.commands.build", "the document for `serve deploy` on a Ray cluster"),
    "grafana": ("serving.commands.grafana", "the Grafana dashboard of every metric, as JSON"),
    "ask": ("serving.commands.ask", "ask a running stack one question; print the answer and its path"),
    "ledger": ("serving.commands.ledger", "read the ledger"),
    "budget": ("serving.commands.budget", "see and set budgets"),
    "report": ("serving.commands.report", "what the stack saved against the frontier alone, from the ledger"),
    "reconcile": ("serving.commands.reconcile", "compare the ledger with a provider's usage export, by day and model"),
    "audit": ("serving.commands.audit", "what past traffic costs, and what it would cost in tiers; needs no stack"),
    "audit-log": ("serving.commands.audit_log", "write a seeded log to try the audit on"),
    "new-key": ("serving.commands.new_key", "make an API key: the key once, and its hashed entry for the keys file"),
}


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit status. A named error is one line, not a traceback."""
    arguments = sys.argv[1:] if argv is None else argv
    args = parser(arguments[0] if arguments else None).parse_args(arguments)
    try:
        status = int(importlib.import_module(COMMANDS[args.command][0]).run(args))
        sys.stdout.flush()  # here, where a reader that left is no error
        return status
    except StackError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever reads our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python would complain when it flushes
        return 0
    except KeyboardInterrupt:
        return 130


def parser(chosen: str | None) -> argparse.ArgumentParser:
    """Every command with a line on what it is for, and the options of the chosen one."""
    top = argparse.ArgumentParser(prog="python -m serving", description="Serve, ask, and read the ledger.")
    commands = top.add_subparsers(required=True, metavar="COMMAND", dest="command")
    for name, (module, does) in COMMANDS.items():
        command = commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
        if name == chosen:
            importlib.import_module(module).add_arguments(command)
    return top


if __name__ == "__main__":
    sys.exit(main())
