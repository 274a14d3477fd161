"""`python -m models register`: put a trained folder into the registry, hashed, with where it comes from."""

import argparse
import json
from pathlib import Path

from models.errors import ModelsError
from models.flywheel.promote import add_registry
from models.flywheel.registry import ArtefactKind, ArtefactManifest, Registry, code_revision, now
from models.tier1.summary import SUMMARY
from routing.head import HeadKind
from serving.artefact import read_manifest
from serving.errors import ConfigInvalid


class NotTrained(ModelsError):
    """The folder does not say what it was trained on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which folder, under which name."""
    add_registry(parser)
    parser.add_argument("name", help="a new name in the registry")
    parser.add_argument("--kind", type=ArtefactKind, choices=list(ArtefactKind), required=True)
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="DIR", help="what training wrote")


def run(args: argparse.Namespace) -> str:
    """Add it; the manifest as written."""
    registry = Registry(args.registry)
    with registry.lock():
        return registry.add(args.source, manifest_of(args.name, args.kind, args.source)).model_dump_json(indent=1)


def manifest_of(name: str, kind: ArtefactKind, source: Path) -> ArtefactManifest:
    """What the folder's own files say of its training. Raises NotTrained."""
    try:
        if kind is ArtefactKind.ADAPTER:
            summary = json.loads((source / SUMMARY).read_text(encoding="utf-8"))
            data, metrics = summary["data_sha256"], {"eval_loss": summary["eval_loss"]}
        else:
            head = read_manifest(source, HeadKind(kind))
            data, metrics = head.data_sha256, dict(head.metrics)
    except (OSError, ValueError, KeyError, ConfigInvalid) as error:
        raise NotTrained(f"{source} was not written by a training of kind {kind}: {error}") from error
    return ArtefactManifest(
        name=name, kind=kind, at=now(), data_sha256=data, code_revision=code_revision(), metrics=metrics
    )
