"""`python -m benchmarks run`: every section in one run, with its card, the ceiling first, and the result kept.

Sections are measured one after the other on stacks they start themselves, or with --url on a running one. A section
that cannot be measured says so in its place, and the others are measured all the same.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.load.dummy_weights import MODELS, SHAPE_7B, weights_or_shape
from benchmarks.load.workload import workloads
from benchmarks.run import card as cards
from benchmarks.run import ceiling as ceilings
from benchmarks.run.lab import Labs, real_tier1, stack_hash
from benchmarks.run.plan import Plan
from benchmarks.run.section import FULL, IN_LABS, QUICK, SECTIONS, load_section

RESULTS = Path("benchmarks/results")
PEERS = Path(".cache/peers/bin")
ROUNDS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m benchmarks run`."""
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """What `run` and `gpu` have in common."""
    names = ",".join(SECTIONS)
    parser.add_argument("--quick", action="store_true", help="at most 3 minutes: fewer loads, random weights")
    parser.add_argument("--sections", type=section_names, metavar="A,B", help=f"of {names} ({','.join(FULL)})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of every measurement ({ROUNDS})")
    parser.add_argument("--seed", type=int, default=0, help="of arrivals and loads (0)")
    parser.add_argument("--url", help="measure this running stack, e.g. http://127.0.0.1:8000, instead of starting one")
    parser.add_argument("--direct", help="with --url: an OpenAI server around the same engine")
    parser.add_argument("--direct-model", help="with --direct: its model name")
    parser.add_argument("--peers", type=Path, help=f"folder with the peers' commands ({PEERS}; `make bench-peers`)")
    parser.add_argument("--out", type=Path, default=RESULTS, help=f"folder that keeps the result ({RESULTS})")


def section_names(text: str) -> tuple[str, ...]:
    """The value of --sections."""
    names = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    return tuple(name for name in SECTIONS if name in names)


def run(args: argparse.Namespace) -> int:
    """Measure, print card, ceiling, tables and JSON, keep the result. Returns 1 when a section failed."""
    with tempfile.TemporaryDirectory(prefix="tierwise-bench-") as scratch:
        plan = plan_of(args, Path(scratch))
        return run_plan(plan, args.sections or (QUICK if args.quick else FULL), args.out)


def plan_of(args: argparse.Namespace, scratch: Path) -> Plan:
    """The options as a plan."""
    return Plan(
        scratch=scratch,
        quick=args.quick,
        rounds=args.rounds,
        seed=args.seed,
        url=args.url,
        direct=args.direct,
        direct_model=args.direct_model,
        peers=args.peers or (PEERS if PEERS.is_dir() else None),
    )


def run_plan(plan: Plan, names: Sequence[str], keep_in: Path) -> int:
    """Measure the sections for `run`."""
    began = time.perf_counter()
    document: dict[str, Any] = {
        "card": cards.make_card(settings(plan, names), models(plan), plan.seed),
        "ceiling": measure_ceilings(plan),
        "sections": {},
        "failed": {},
    }
    print(cards.text(document["card"]))
    for name, found in document["ceiling"].items():
        print(ceilings.text(name, found))
    tables = {}
    with Labs(plan) as labs:
        for name in names:
            print(f"measuring: {name}", file=sys.stderr, flush=True)
            started = time.perf_counter()
            if name not in IN_LABS:
                labs.close()
            try:
                section = load_section(name)
                document["sections"][name] = found = section.measure(plan, labs)
                found["took_s"] = time.perf_counter() - started
                tables[name] = section.table(found)
            except (SystemExit, Exception) as error:  # a section's end is a result, whatever ended it
                document["failed"][name] = f"{type(error).__name__}: {error}"[:500]
            except KeyboardInterrupt:  # what was measured before is kept
                document["failed"][name] = "interrupted"
                break
    document["took_s"] = time.perf_counter() - began
    for name, table in tables.items():
        print(f"\n== {name} ==\n{table}")
    for name, reason in document["failed"].items():
        print(f"\n== {name} ==\nnot measured: {reason}")
    path = keep(document, keep_in)
    draw(document, path)
    print(f"\ntook {document['took_s'] / 60:.1f} minutes; kept as {path}")
    print(json.dumps(document))
    return 1 if document["failed"] else 0


def settings(plan: Plan, names: Sequence[str]) -> dict[str, Any]:
    """What two runs must share to be comparable: profile, loads and plan, without addresses and folders."""
    places = {"scratch", "peers", "url", "direct"}
    return {
        "plan": {field.name: str(getattr(plan, field.name)) for field in fields(plan) if field.name not in places},
        "running_stack": None if plan.url is None else asyncio.run(stack_hash(plan.url)),
        "sections": list(names),
        "profile": plan.profile.read_text("utf-8"),
        "workloads": {name: path.read_text("utf-8") for name, path in workloads().items()},
    }


def models(plan: Plan) -> dict[str, str | None]:
    """Every model that is here, with the hash of the file its weights were made from."""
    manifests = sorted(MODELS.glob("*/manifest.json"))
    return {path.parent.name: json.loads(path.read_text("utf-8")).get("identity") for path in manifests}


def measure_ceilings(plan: Plan) -> dict[str, Any]:
    """Of tier 1's model. Nothing of a running stack elsewhere, whose machine is not ours."""
    if plan.url is not None and "127.0.0.1" not in plan.url:
        return {}
    model = real_tier1(plan)["model"]
    folder, made_up = weights_or_shape(model, plan.scratch)
    if made_up and not plan.gpu:
        return {}
    weights = ceilings.shape_weights(SHAPE_7B) if made_up else ceilings.read_weights(folder)
    return {folder.name: ceilings.ceiling(ceilings.measure_machine(plan.gpu), weights)}


def keep(document: dict[str, Any], folder: Path) -> Path:
    """Write the result under a name that says when, of which commit and with which settings."""
    card = document["card"]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{card['at'][:10]}-{card['commit']}-{card['config_hash']}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return path


def draw(document: dict[str, Any], path: Path) -> None:
    """The plots of the sections that have any, beside the result."""
    for name, found in document["sections"].items():
        plot = getattr(load_section(name), "plot", None)
        if plot is not None:
            plot(found, path.with_name(f"{path.stem}-{name}.svg"))
