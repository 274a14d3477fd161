"""The folder of everything that was trained and released: artefacts with hashed files, the release, the audit log.

REGISTRY/artefacts/NAME/   the files and `artefact.json`; never changed once added
REGISTRY/release.json      what serving runs, watched by it; replaced by one rename
REGISTRY/releases/N.json   every release there was
REGISTRY/audit.jsonl       every step and refusal, one line each, only ever appended
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from filelock import FileLock
from pydantic import Field, ValidationError

from models.errors import ModelsError
from models.flywheel.refused import Refused
from routing.learning.promotion import RefusalReason
from routing.learning.release import RELEASE_FILE, Release, Variant
from routing.records import Record

MANIFEST: Final = "artefact.json"
ALLOWED: Final = frozenset({".json", ".safetensors", ".png", ".md", ".txt", ".jinja"})


class RegistryInvalid(ModelsError):
    """The registry cannot be read. The message names the file."""


class ArtefactKind(StrEnum):
    """What is promoted."""

    ROUTER = "router"
    GATE = "gate"
    ADAPTER = "adapter"


class ArtefactManifest(Record):
    """One candidate: where it comes from, what it measured, and the hash of every file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    kind: ArtefactKind
    parent: str | None = Field(None, description="the artefact it is meant to replace")
    at: str
    data_sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    code_revision: str | None = Field(None, description="commit it was trained with; None: not in a repository")
    metrics: dict[str, float | None] = Field(default_factory=dict)
    overrides: dict[str, dict[str, Any]] = Field(default_factory=dict, description="what is set along with it")
    not_believed: tuple[str, ...] = Field((), description="tenants, hashed, whose labels its data holds wrongly")
    files: dict[str, str] = Field(default_factory=dict, description="sha256 by name; written by `Registry.add`")


class AuditEntry(Record):
    """One line of the audit log."""

    at: str
    step: str
    version: int | None = None
    artefact: str | None = None
    reasons: tuple[str, ...] = ()
    detail: dict[str, Any] = Field(default_factory=dict)


class Registry:
    """Used by one command at a time; `lock` keeps a second one waiting."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Nobody else changes the registry inside."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / ".lock"):
            yield

    def add(self, source: Path, manifest: ArtefactManifest) -> ArtefactManifest:
        """Copy a folder's files in and write their hashes. Raises Refused for a pickle, RegistryInvalid if taken."""
        folder = self.folder(manifest.name)
        if folder.exists():
            raise RegistryInvalid(f"{folder} exists; an artefact is never changed, choose another name")
        names = sorted(path.name for path in source.iterdir() if path.is_file())
        if bad := [name for name in names if Path(name).suffix not in ALLOWED]:
            raise Refused(RefusalReason.PICKLE, f"{bad[0]} in {source}: only {sorted(ALLOWED)} may be promoted")
        half = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        for name in names:
            shutil.copyfile(source / name, half / name)
        written = manifest.model_copy(update={"files": {name: sha256(half / name) for name in names}})
        (half / MANIFEST).write_text(written.model_dump_json(indent=1), encoding="utf-8")
        half.rename(folder)
        self.audit("added", artefact=manifest.name, detail={"kind": manifest.kind, "metrics": manifest.metrics})
        return written

    def folder(self, name: str) -> Path:
        """Where an artefact lies."""
        return self.root / "artefacts" / name

    def verified(self, name: str) -> ArtefactManifest:
        """The manifest, every file read again. Raises Refused: wrong hash, a file more or less, a pickle."""
        folder = self.folder(name)
        try:
            manifest = ArtefactManifest.model_validate_json((folder / MANIFEST).read_bytes())
        except (OSError, ValidationError) as error:
            raise Refused(RefusalReason.NOT_AN_ARTEFACT, f"{folder}: {error!r:.300}") from error
        there = {path.name for path in folder.iterdir()} - {MANIFEST}
        if bad := sorted(name for name in there if Path(name).suffix not in ALLOWED):
            raise Refused(RefusalReason.PICKLE, f"{folder / bad[0]}: only {sorted(ALLOWED)} may be promoted")
        if there != set(manifest.files):
            raise Refused(RefusalReason.WRONG_HASH, f"{folder}: files {sorted(there ^ set(manifest.files))} differ")
        for file, expected in manifest.files.items():
            if (seen := sha256(folder / file)) != expected:
                raise Refused(RefusalReason.WRONG_HASH, f"{folder / file}: sha256 {seen}, expected {expected}")
        return manifest

    def release(self) -> Release:
        """What serving is told to run; version 1 without overrides before anything was promoted."""
        path = self.root / RELEASE_FILE
        if not path.exists():
            return Release(stable=Variant(version=1))
        return read_release(path)

    def past(self, version: int) -> Variant:
        """A variant that was stable or canary once. Raises RegistryInvalid."""
        if version == 1 and not (self.root / "releases" / "1.json").exists():
            return Variant(version=1)
        release = read_release(self.root / "releases" / f"{version}.json")
        return release.canary if release.canary is not None and release.canary.version == version else release.stable

    def next_version(self) -> int:
        """A number no release has had."""
        used = [int(path.stem) for path in (self.root / "releases").glob("*.json") if path.stem.isdigit()]
        return max([1, *used]) + 1

    def publish(self, release: Release, step: str, **audit: Any) -> None:
        """Make it what serving runs: kept by its newest version, then put in place by one rename, then on record."""
        newest = max(v.version for v in (release.stable, release.canary) if v is not None)
        kept = self.root / "releases" / f"{newest}.json"
        if not kept.exists():
            write_whole(kept, release.model_dump_json(indent=1))
        write_whole(self.root / RELEASE_FILE, release.model_dump_json(indent=1))
        self.audit(step, version=release.stable.version, **audit)

    def audit(self, step: str, **fields: Any) -> None:
        """Append one line and see it on the disk."""
        entry = AuditEntry.model_validate({"at": now(), "step": step, **fields})
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "audit.jsonl").open("ab") as log:
            log.write(entry.model_dump_json().encode() + b"\n")
            log.flush()
            os.fsync(log.fileno())

    def history(self) -> list[AuditEntry]:
        """Every step, oldest first."""
        try:
            lines = (self.root / "audit.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [AuditEntry.model_validate_json(line) for line in lines]


def read_release(path: Path) -> Release:
    """A release file. Raises RegistryInvalid."""
    try:
        return Release.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RegistryInvalid(f"{path} is no release: {error}") from error


def write_whole(path: Path, text: str) -> None:
    """Replace a file by one rename, so that a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.part")
    half.write_text(text, encoding="utf-8")
    os.replace(half, path)


def sha256(path: Path) -> str:
    """Of a file, in bounded memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def now() -> str:
    """This moment, as the ledger writes it."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def code_revision() -> str | None:
    """The commit this code is at; None outside a repository."""
    git = shutil.which("git")
    if git is None:
        return None
    said = subprocess.run(  # noqa: S603 - our own words
        [git, "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or None


def describe(entry: AuditEntry) -> str:
    """One line for a person."""
    reasons = f"  {'; '.join(entry.reasons)}" if entry.reasons else ""
    detail = f"  {json.dumps(entry.detail)}" if entry.detail else ""
    version = "" if entry.version is None else f"  r{entry.version}"
    return f"{entry.at[:19]}  {entry.step:<12}{version}  {entry.artefact or '-'}{reasons}{detail}"
