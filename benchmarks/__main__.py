"""`python -m benchmarks NAME`: each prints a card, a table and, as its last line, one JSON document."""

import argparse
import importlib
import signal
import subprocess
import sys

# name: (module with add_arguments(parser) and run(args) -> exit status, one line of help)
BENCHMARKS = {
    "run": (
        "benchmarks.run.command",
        "every section in one run, kept under benchmarks/results: what `make bench` does",
    ),
    "gpu": (
        "benchmarks.run.gpu",
        "the same on the NVIDIA GPU of this machine, checked first: what `make bench-gpu` does",
    ),
    "readme": ("benchmarks.readme", "put the figures of kept results into README"),
    "compare": ("benchmarks.run.compare", "two kept results: what moved beyond the spread"),
    "quality": ("benchmarks.quality.command", "router and gate on graded pairs, beside every baseline"),
    "tasks": ("benchmarks.tasks.command", "our own verifiable tasks: accuracy and cost of every way to choose a tier"),
    "flywheel": ("benchmarks.flywheel.command", "one turn: serve, label, retrain, judge, promote, serve again"),
    "gateway": ("benchmarks.sections.gateway", "what our own code adds to Ray Serve and to an engine"),
    "layers": (
        "benchmarks.layers.command",
        "what routing, gate, caching, replicas and kernels are worth, one by one",
    ),
    "replicas": (
        "benchmarks.replicas.command",
        "replica routing: a trace replayed under our policy and the published ones",
    ),
}
MOVED = ("audit", "audit-log")  # for one version: these are commands of `python -m serving` now


def main(argv: list[str] | None = None) -> int:
    """Run one benchmark. Its module is imported only when it is asked for."""
    arguments = sys.argv[1:] if argv is None else argv
    chosen = arguments[0] if arguments else None
    if chosen in MOVED:
        print(f"moved: this is python -m serving {chosen} now", file=sys.stderr)
        return subprocess.run([sys.executable, "-m", "serving", *arguments], check=False).returncode
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="NAME", dest="name")
    for name, (module, text) in BENCHMARKS.items():
        command = commands.add_parser(name, help=text, description=text)
        if name == chosen:
            importlib.import_module(module).add_arguments(command)
    args = parser.parse_args(arguments)
    # Asked to end is as Ctrl-C: what a benchmark started is stopped on the way out.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return int(importlib.import_module(BENCHMARKS[args.name][0]).run(args))
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
