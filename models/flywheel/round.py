"""`python -m models flywheel once|watch`: check what runs, learn from new labels, promote what measures better.

A round first rolls back a release that has got worse, or finishes a canary that has not. When there are enough new
labels it trains and calibrates a router head on the earlier ones. The latest labels decide on its promotion.
"""

import argparse
import json
import logging
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from models.data.dedup import unique
from models.flywheel.candidate import judge_head
from models.flywheel.export import read_samples
from models.flywheel.labels import cap_tenants, graded_pairs, not_believed, read_references
from models.flywheel.monitor import LiveMargins, live_by_version
from models.flywheel.promote import add_registry
from models.flywheel.refused import Refused
from models.flywheel.registry import ArtefactKind, ArtefactManifest, Registry, code_revision, now
from models.flywheel.steps import start_canary, watch_release
from models.heads.calibrate import Promise, calibrate_artefact
from models.heads.pairs import data_sha256
from models.heads.train import ROUTER_FOREST
from models.heads.train_panel import train_panel
from routing.heads.evidence import HeadKind
from routing.learning.labels import Pair, without_questions
from routing.learning.promotion import Margins
from routing.records import RequestRecord
from serving.ledger.config import LedgerConfig
from serving.ledger.reader import LedgerReader

log = logging.getLogger(__name__)

TRAIN_SHARE, CALIBRATE_SHARE = 0.5, 0.3  # of the labels in time; the rest, the latest, judges


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options: once or for ever, which ledger, when a candidate is worth training."""
    add_registry(parser)
    parser.add_argument("mode", choices=["once", "watch"])
    parser.add_argument("--ledger", required=True, metavar="URL", help="as ledger.url of the profile")
    parser.add_argument("--spool", default=None, metavar="DIR", help="as ledger.spool_dir; needed with Postgres")
    parser.add_argument("--references", type=Path, metavar="FILE", help='lines of {"prompt", "answer"}')
    parser.add_argument("--quality-target", type=float, default=0.98, help="share of the frontier's quality to keep")
    parser.add_argument("--min-labels", type=int, default=300, help="labels before a first candidate is trained")
    parser.add_argument("--new-labels", type=int, default=100, help="further labels before the next one is")
    parser.add_argument("--canary-ratio", type=float, default=0.1, help="share of requests at first; 1: all at once")
    parser.add_argument("--margin", type=float, default=0.05, help="quality that a category may lose (0..1)")
    parser.add_argument("--live-days", type=float, default=7.0, help="how far back live rows are compared")
    parser.add_argument("--every-s", type=float, default=600.0, help="pause between two rounds of watch")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> str:
    """One round, or rounds until Ctrl-C; JSON of the last."""
    while True:
        done = json.dumps(one_round(args), indent=1)
        if args.mode == "once":
            return done
        log.info("%s", done)
        time.sleep(args.every_s)


def one_round(args: argparse.Namespace) -> dict[str, Any]:
    """What was seen and done."""
    config = LedgerConfig(url=args.ledger, spool_dir=args.spool)
    registry = Registry(args.registry)
    samples, feedback = read_samples(config)
    references = {} if args.references is None else read_references(args.references)
    graded = graded_pairs(samples, feedback, references)
    pairs, cut = cap_tenants(unique(graded, [pair.prompt for pair in graded]))
    done: dict[str, Any] = {
        "labels": len(pairs),
        "cut_by_tenant": cut,
        "not_believed": {t: f"{w} of {n} wrong" for t, (w, n) in not_believed(samples, feedback, references).items()},
    }
    with registry.lock():
        records = read_records(config, datetime.now(UTC) - timedelta(days=args.live_days))
        done["release"] = watch_release(registry, live_by_version(records, graded), LiveMargins())
        if registry.release().canary is None:
            done["candidate"] = try_candidate(registry, pairs, args)
    return done


def read_records(config: LedgerConfig, since: datetime) -> Sequence[RequestRecord]:
    """The live rows. Raises ConfigInvalid when there is no ledger to read."""
    reader = LedgerReader(config)
    try:
        return list(reader.requests(since=since))
    finally:
        reader.close()


def try_candidate(registry: Registry, pairs: Sequence[Pair], args: argparse.Namespace) -> dict[str, Any]:
    """Train, register and judge a router head; its canary starts when nothing speaks against it."""
    seen = last_label_count(registry)
    needed = args.min_labels if seen is None else seen + args.new_labels
    if len(pairs) < needed:
        return {"trained": False, "why": f"{len(pairs)} labels; the next candidate needs {needed}"}
    train, fit, heldout = split_in_time(pairs)
    name = f"router-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "head"
        head = train_panel(HeadKind.ROUTER, [("flywheel", train)], ROUTER_FOREST, folder, args.seed)
        calibrate_artefact(folder, HeadKind.ROUTER, fit, Promise((args.quality_target,), seed=args.seed))
        manifest = ArtefactManifest(
            name=name,
            kind=ArtefactKind.ROUTER,
            parent=registry.release().stable.artefacts.get(ArtefactKind.ROUTER),
            at=now(),
            data_sha256=data_sha256(train),
            code_revision=code_revision(),
            metrics={**head.metrics, "n_labels": float(len(pairs))},
            overrides={"policy": {"quality_target": args.quality_target}},
        )
        registry.add(folder, manifest)
    try:
        comparison = judge_head(registry, name, heldout, Margins(category_margin=args.margin))
    except Refused as refused:
        registry.audit("refused", artefact=name, reasons=refused.reasons, detail={"why": str(refused)})
        return {"trained": True, "name": name, "refused": refused.reasons, "why": str(refused)}
    start_canary(registry, name, args.canary_ratio, detail=comparison.model_dump(mode="json"))
    return {"trained": True, "name": name, "comparison": comparison.model_dump(mode="json")}


def split_in_time(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair], list[Pair]]:
    """(train, calibrate, judge) by when they were asked; no question is in two of them."""
    ordered = sorted(pairs, key=lambda pair: pair.provenance.at if pair.provenance else "")
    first, second = round(TRAIN_SHARE * len(ordered)), round((TRAIN_SHARE + CALIBRATE_SHARE) * len(ordered))
    train, fit, heldout = ordered[:first], ordered[first:second], ordered[second:]
    fit = without_questions(fit, [pair.prompt for pair in train])
    return train, fit, without_questions(heldout, [pair.prompt for pair in (*train, *fit)])


def last_label_count(registry: Registry) -> int | None:
    """How many labels the latest candidate of the flywheel had; None before the first."""
    counts = [
        entry.detail["metrics"].get("n_labels")
        for entry in registry.history()
        if entry.step == "added" and "metrics" in entry.detail
    ]
    return next((int(n) for n in reversed(counts) if n is not None), None)
