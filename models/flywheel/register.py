"""`python -m models register`: put a trained folder into the registry, hashed, with where it comes from."""

import argparse
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from models.errors import ModelsError
from models.flywheel.promote import CommandLineWrong, add_registry
from models.flywheel.registry import ArtefactKind, ArtefactManifest, Registry, code_revision, now
from models.tier1.config import SUMMARY
from routing.heads.evidence import HeadKind
from routing.learning.release import RELOADABLE, Variant
from serving.artefacts.heads import read_manifest
from serving.errors import ConfigInvalid


class NotTrained(ModelsError):
    """The folder does not say what it was trained on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which folder, under which name."""
    add_registry(parser)
    parser.add_argument("name", help="a new name in the registry")
    parser.add_argument("--kind", type=ArtefactKind, choices=list(ArtefactKind), required=True)
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="DIR", help="what training wrote")
    parser.add_argument(
        "--heads", type=Path, metavar="DIR", help="of an adapter: router and gate calibrated on its drafts, set with it"
    )
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="set along with it, such as gate.explore_rate=1",
    )


def run(args: argparse.Namespace) -> str:
    """Add it; the manifest as written."""
    registry = Registry(args.registry)
    manifest = manifest_of(args.name, args.kind, args.source)
    overrides = settings(args.set)
    with registry.lock(), tempfile.TemporaryDirectory() as made:
        source = args.source
        if args.heads is not None:
            source = together(args.kind, (args.source, args.heads), Path(made) / "both")
            folder = str(registry.folder(args.name).resolve())
            for section in ("policy", "gate"):
                overrides.setdefault(section, {})["artefact"] = folder
        manifest = manifest.model_copy(update={"overrides": Variant(version=1, overrides=overrides).overrides})
        return registry.add(source, manifest).model_dump_json(indent=1)


def settings(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Overrides by section, of SECTION.KEY=VALUE with YAML values. Raises CommandLineWrong."""
    found: dict[str, dict[str, Any]] = {}
    for word in words:
        name, is_set, value = word.partition("=")
        section, has_key, key = name.partition(".")
        if not is_set or not has_key or section not in RELOADABLE:
            raise CommandLineWrong(f"--set {word}: expected SECTION.KEY=VALUE with a section of {sorted(RELOADABLE)}")
        found.setdefault(section, {})[key] = yaml.safe_load(value)
    return found


def together(kind: ArtefactKind, folders: Sequence[Path], out: Path) -> Path:
    """One folder with the files of both, so that they are hashed and promoted as one. Raises CommandLineWrong."""
    if kind is not ArtefactKind.ADAPTER:
        raise CommandLineWrong("--heads belongs to an adapter; a head is registered by itself")
    out.mkdir()
    for path in (path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()):
        if (out / path.name).exists():
            raise CommandLineWrong(f"{path.name} is in both folders: {', '.join(map(str, folders))}")
        shutil.copyfile(path, out / path.name)
    return out


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
