"""The folder of a finished model and its manifest: what is in it, from where, and how to tell that it is whole.

A folder with a manifest is complete, because both appear by one rename. So a start looks at names and sizes only;
`verify` reads every byte again.
"""

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from models.errors import HashMismatch
from models.weights.catalog import CatalogModel, PlainName, Sha256
from routing.records import Record

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = "manifest.json"


class FileEntry(Record):
    """One file of a finished model."""

    bytes: int = Field(ge=0)
    sha256: Sha256


class WeightsManifest(Record):
    """What a finished model folder holds and how it came about."""

    format: Literal[1] = 1
    name: PlainName
    licence: str
    origin: str
    source: str = Field(description="where the bytes came from, in words")
    identity: str = Field(description="sha256 of the GGUF, or the hub commit; see `identity_of`")
    at: str = Field(description="UTC, ISO 8601")
    versions: dict[str, str] = Field(description="of the packages that made the files")
    files: dict[str, FileEntry] = Field(description="by path inside the folder, '/' between names")


def cache_dir(explicit: Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """Where models live: the argument, else TIERWISE_CACHE, else .cache/tierwise under the repository root."""
    if explicit is not None:
        return explicit.resolve()
    if configured := environ.get("TIERWISE_CACHE"):
        return Path(configured).resolve()
    return ROOT / ".cache" / "tierwise"


def model_dir(cache: Path, name: str) -> Path:
    """The folder that vLLM is given for this model."""
    return cache / "models" / name


def identity_of(model: CatalogModel) -> str:
    """What a manifest must name to be this catalog entry: the GGUF's sha256, or the hub commit of a whole model."""
    if model.gguf is not None:
        return model.gguf.sha256
    return next(source.revision for source in model.sources if source.kind == "hub") or "no pinned commit"


def read_manifest(folder: Path) -> WeightsManifest | None:
    """The manifest of a finished model; None when there is none that can be read."""
    try:
        return WeightsManifest.model_validate_json((folder / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


def ready(model: CatalogModel, folder: Path) -> WeightsManifest | None:
    """The manifest when `folder` is this model and whole by names and sizes (milliseconds), else None."""
    manifest = read_manifest(folder)
    if manifest is None or (manifest.name, manifest.identity) != (model.name, identity_of(model)):
        return None
    for name, entry in manifest.files.items():
        try:
            if (folder / name).stat().st_size != entry.bytes:
                return None
        except OSError:
            return None
    return manifest


def verify(folder: Path, manifest: WeightsManifest) -> None:
    """Read every file again. Raises HashMismatch for the first that is not what the manifest names."""
    for name, entry in manifest.files.items():
        if (seen := sha256_of(folder / name)) != entry.sha256:
            advice = f"The file changed after it was made; `fetch {manifest.name} --force` makes the model anew."
            raise HashMismatch(folder / name, entry.sha256, seen, advice)


def write_manifest(folder: Path, model: CatalogModel, source: str) -> WeightsManifest:
    """Hash every file of `folder`, make it durable, and write the manifest last."""
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        files[path.relative_to(folder).as_posix()] = FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path))
        _flush_to_disk(path)
    manifest = WeightsManifest(
        name=model.name,
        licence=model.licence,
        origin=model.origin,
        source=source,
        identity=identity_of(model),
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=_versions(),
        files=files,
    )
    (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    _flush_to_disk(folder / MANIFEST)
    return manifest


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_to_disk(path: Path) -> None:
    # Without it a power cut after the rename could leave a manifest that vouches for empty files.
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _versions() -> dict[str, str]:
    found = {}
    for package in ("torch", "transformers", "gguf", "huggingface_hub"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
