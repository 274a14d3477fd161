"""Finds a model's files: a catalog name in the cache, a local folder, or a hub id that is left to the engine."""

import os
from pathlib import Path

from serving.errors import ConfigInvalid

ROOT = Path(__file__).resolve().parents[2]


def cache_dir() -> Path:
    """$TIERWISE_CACHE, or .cache/tierwise in the repository."""
    return Path(os.environ.get("TIERWISE_CACHE", ROOT / ".cache" / "tierwise"))


def model_path(model: str) -> str:
    """The folder of a fetched model, the given folder, or the hub id itself ("owner/name").

    Raises ConfigInvalid for a catalog name that has not been fetched.
    """
    fetched = cache_dir() / "models" / model
    if (fetched / "config.json").is_file():
        return str(fetched)
    if Path(model).is_dir() or model.count("/") == 1:
        return model
    raise ConfigInvalid(f"the weights of {model!r} are not in {fetched}; run: python -m models fetch {model}")
