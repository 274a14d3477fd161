"""A model from the hub: one GGUF file, or a whole repository at one commit.

The hub is asked only after a short knock has shown that it answers, so a machine without it loses seconds, not
minutes. HF_ENDPOINT and HF_TOKEN mean what they mean to every hub client.
"""

import os
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from models.catalog import GgufFile, HubSource
from models.errors import HashMismatch, SourceUnavailable
from models.weights import sha256_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

KNOCK_TIMEOUT_S = 5.0
# Weights and what is needed to read and name them; no pickles (*.bin, *.pt), no code, no second copy in another format.
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "tokenizer.model", "LICENSE*", "README.md")


@dataclass(frozen=True)
class RepoFile:
    """A file of a repository as the hub lists it; sha256 is None for small files that are kept in git itself."""

    name: str
    bytes: int
    sha256: str | None


def download_gguf(source: HubSource, gguf: GgufFile, folder: Path) -> Path:
    """The GGUF file in `folder`, with the catalog's hash. An interrupted download is continued.

    Raises SourceUnavailable when the hub is out of reach or lacks the file, HashMismatch when it has another one.
    """
    from huggingface_hub import hf_hub_download  # noqa: PLC0415 - half a second, and only here

    api = _connect()
    try:
        path = Path(
            hf_hub_download(source.repo, gguf.file, revision=source.revision, local_dir=folder, endpoint=api.endpoint)
        )
    except _failures() as error:
        raise SourceUnavailable(_one_line(error)) from error
    if (seen := sha256_of(path)) != gguf.sha256:
        path.unlink()
        advice = "The hub gave another file than the catalog names; it was removed."
        raise HashMismatch(path, gguf.sha256, seen, advice)
    return path


def list_files(source: HubSource) -> list[RepoFile]:
    """The files a model needs, of the repository at the pinned commit. Raises SourceUnavailable."""
    try:
        info = _connect().model_info(source.repo, revision=source.revision, files_metadata=True)
    except _failures() as error:
        raise SourceUnavailable(_one_line(error)) from error
    files = [
        RepoFile(sibling.rfilename, sibling.size or 0, sibling.lfs.sha256 if sibling.lfs else None)
        for sibling in info.siblings or []
    ]
    return [file for file in files if any(fnmatch(file.name, pattern) for pattern in WANTED)]


def download_snapshot(source: HubSource, files: list[RepoFile], folder: Path) -> None:
    """Put `files` into `folder`, each with the size and, where the hub names one, the hash it was listed with.

    Raises SourceUnavailable; HashMismatch for a file that arrived wrong.
    """
    from huggingface_hub import snapshot_download  # noqa: PLC0415

    api = _connect()
    try:
        snapshot_download(
            source.repo,
            revision=source.revision,
            local_dir=folder,
            allow_patterns=[file.name for file in files],
            endpoint=api.endpoint,
        )
    except _failures() as error:
        raise SourceUnavailable(_one_line(error)) from error
    for file in files:
        path = folder / file.name
        if file.sha256 is not None and (seen := sha256_of(path)) != file.sha256:
            path.unlink()
            raise HashMismatch(path, file.sha256, seen, "The hub gave another file than it lists; it was removed.")


def _connect() -> "HfApi":
    """A client of a hub that answers. Any status will do: what it says about a file is the next question."""
    from huggingface_hub import HfApi, constants  # noqa: PLC0415

    if constants.HF_HUB_OFFLINE:
        raise SourceUnavailable("HF_HUB_OFFLINE is set")
    # Read here, not from the library's constant, which is frozen when it is first imported.
    endpoint = os.environ.get("HF_ENDPOINT", constants.ENDPOINT)
    try:
        httpx.head(endpoint, timeout=KNOCK_TIMEOUT_S)
    except httpx.HTTPError as error:
        raise SourceUnavailable(f"no network: {endpoint} does not answer ({_one_line(error)})") from error
    return HfApi(endpoint=endpoint)


def _failures() -> tuple[type[Exception], ...]:
    """What the hub client raises when the hub, the network or the repository is the reason; not a full disk."""
    from huggingface_hub import errors  # noqa: PLC0415

    return (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.HFValidationError, httpx.HTTPError)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
