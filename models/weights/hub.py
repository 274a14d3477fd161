"""A model from the hub: one GGUF file, or a whole repository at one commit.

The hub is asked only after a short knock has shown that it answers, so a machine without it loses seconds, not
minutes. HF_ENDPOINT and HF_TOKEN mean what they mean to every hub client. Its libraries are imported inside the
functions, so that a start that finds its models ready does not wait half a second for them.
"""

import os
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from models.errors import HashMismatch, SourceUnavailable
from models.weights.catalog import GgufFile, HubSource
from models.weights.folder import sha256_of

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
    path = _download(_connect(), source, gguf.file, folder)
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
    """Put `files` into `folder`, each checked against the hash it was listed with. Finished ones are not fetched again.

    Raises SourceUnavailable; HashMismatch for a file that arrived wrong.
    """
    api = _connect()
    for file in files:
        path = _download(api, source, file.name, folder)
        if file.sha256 is not None and (seen := sha256_of(path)) != file.sha256:
            path.unlink()
            raise HashMismatch(path, file.sha256, seen, "The hub gave another file than it lists; it was removed.")


def _connect() -> "HfApi":
    """A client of a hub that answers. Any status will do: what it says about a file is the next question."""
    import httpx  # noqa: PLC0415
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


def _download(api: "HfApi", source: HubSource, name: str, folder: Path) -> Path:
    """One file of the repository in `folder`; an interrupted download is continued. Raises SourceUnavailable."""
    try:
        return Path(api.hf_hub_download(source.repo, name, revision=source.revision, local_dir=folder))
    except _failures() as error:
        raise SourceUnavailable(_one_line(error)) from error


def _failures() -> tuple[type[Exception], ...]:
    """What the hub client raises when the hub, the network or the repository is the reason; not a full disk."""
    import httpx  # noqa: PLC0415
    from huggingface_hub import errors  # noqa: PLC0415

    return (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.HFValidationError, httpx.HTTPError)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
