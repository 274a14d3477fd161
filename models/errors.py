"""What can go wrong with models, each with a message for the operator: what was wrong, the value seen, what to do.

ModelsError               a command prints the message and exits with 1, without a traceback
├── CatalogInvalid        models/weights/catalog.yaml does not say what it must
├── UnknownModel          no model of that name in the catalog
└── FetchError            weights could not be made ready
    ├── SourceUnavailable one source could not give it; the next one is tried
    ├── HashMismatch      a file is not the one the catalog names; it is refused
    ├── NoSource          every source was tried, none had the model
    ├── DiskFull          not enough space; nothing half-made is left
    ├── RevisionUnknown   the catalog pins no commit of this model and the command names none
    ├── Occupied          a folder that fetch did not make stands where the model belongs
    └── ConversionFailed  the file arrived but could not be turned into a model folder
"""

from pathlib import Path


class ModelsError(Exception):
    """Base of every error that a command of this package explains to its operator."""


class CatalogInvalid(ModelsError):
    """The catalog was refused. The message names the field."""


class UnknownModel(ModelsError):
    """The name is not in the catalog. The message lists those that are."""


class FetchError(ModelsError):
    """Weights could not be made ready."""


class SourceUnavailable(FetchError):
    """One source could not give the model. NoSource lists the reason."""


class HashMismatch(FetchError):
    """A file is not the one the catalog names."""

    def __init__(self, file: Path, expected: str, seen: str, advice: str) -> None:
        super().__init__(f"{file}: expected sha256 {expected}, saw {seen}. {advice}")
        self.file = file
        self.expected = expected
        self.seen = seen


class NoSource(FetchError):
    """No source had the model. The message lists each with its reason."""


class DiskFull(FetchError):
    """Not enough free space for what is about to be written, or none left while writing."""


class RevisionUnknown(FetchError):
    """Nobody has said which commit of the hub is meant."""


class Occupied(FetchError):
    """A folder without a manifest of ours stands where the model belongs."""


class ConversionFailed(FetchError):
    """The file arrived but could not be turned into a model folder."""
