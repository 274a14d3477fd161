"""`python -m models promote`: a candidate that is better on held-out labels becomes the canary; others are refused."""

import argparse
import json
from pathlib import Path

from models.errors import ModelsError
from models.flywheel.candidate import KINDS_WITH_HEADS, judge_adapter, judge_head, read_graded
from models.flywheel.refused import Refused
from models.flywheel.registry import ArtefactKind, Registry
from models.flywheel.steps import finish, start_canary
from models.heads.pairs import load_pairs
from routing.learning.promotion import Comparison, Margins

DEFAULT_REGISTRY = Path(".cache/tierwise/registry")


class CommandLineWrong(ModelsError):
    """Options that do not go together."""


def add_registry(parser: argparse.ArgumentParser) -> None:
    """Where the registry is."""
    parser.add_argument("--registry", type=Path, default=DEFAULT_REGISTRY, metavar="DIR", help=f"({DEFAULT_REGISTRY})")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which artefact, judged on what, for which share."""
    add_registry(parser)
    parser.add_argument("name", nargs="?", help="artefact of the registry; none with --finish")
    parser.add_argument("--pairs", type=Path, nargs="*", metavar="FILE", help="held-out graded pairs, for heads")
    parser.add_argument("--graded", type=Path, nargs=2, metavar="FILE", help="graded answers of what runs and of it")
    parser.add_argument(
        "--categories", nargs="*", default=[], metavar="NAME", help="of an adapter: draft and judge these alone"
    )
    parser.add_argument("--canary-ratio", type=float, default=0.1, help="share of requests at first; 1: all at once")
    parser.add_argument("--margin", type=float, default=0.05, help="quality that a category may lose (0..1)")
    parser.add_argument("--finish", action="store_true", help="make the running canary stable")
    parser.add_argument("--force", metavar="REASON", help="without the comparison; hashes are still checked")


def run(args: argparse.Namespace) -> str:
    """Promote; raises Refused with the reasons, which are on record then."""
    registry = Registry(args.registry)
    with registry.lock():
        if args.finish:
            return finish(registry).model_dump_json(indent=1)
        if args.name is None:
            raise CommandLineWrong("name an artefact, or use --finish")
        try:
            if args.categories and registry.verified(args.name).kind is not ArtefactKind.ADAPTER:
                raise CommandLineWrong("--categories chooses what an adapter is for; a head decides every category")
            share = (registry, args.name, args.canary_ratio, args.categories)
            if args.force:
                return start_canary(*share, reasons=(f"forced: {args.force}",)).model_dump_json(indent=1)
            comparison = judged(registry, args)
            release = start_canary(*share, detail=comparison.model_dump(mode="json"))
        except Refused as refused:
            registry.audit("refused", artefact=args.name, reasons=refused.reasons, detail={"why": str(refused)})
            raise
    return json.dumps({"release": release.model_dump(), "comparison": comparison.model_dump()}, indent=1)


def judged(registry: Registry, args: argparse.Namespace) -> Comparison:
    """The comparison of the candidate with what runs. Raises Refused."""
    margins = Margins(category_margin=args.margin)
    if registry.verified(args.name).kind in KINDS_WITH_HEADS:
        if not args.pairs:
            raise CommandLineWrong("--pairs FILE: a head is judged on held-out graded pairs")
        return judge_head(registry, args.name, [pair for path in args.pairs for pair in load_pairs(path)], margins)
    if not args.graded:
        raise CommandLineWrong("--graded RUNNING CANDIDATE: an adapter is judged on graded answers of both")
    (running, categories), (candidate, _) = (read_graded(path) for path in args.graded)
    if args.categories:
        running, candidate = (
            {task: quality for task, quality in graded.items() if categories.get(task) in args.categories}
            for graded in (running, candidate)
        )
    return judge_adapter(registry, args.name, running, candidate, categories, margins)
