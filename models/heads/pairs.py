"""Read graded pairs from JSON lines, plain or gzipped, and say exactly which ones they were."""

import gzip
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from models.errors import ModelsError
from routing.learning.labels import Pair, question_key, read_pairs


class PairsInvalid(ModelsError):
    """A file of pairs cannot be read. The message names the file and the line."""


def load_pairs(path: Path) -> list[Pair]:
    """The pairs of one file. Raises PairsInvalid."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            pairs = read_pairs(lines)
    except (OSError, EOFError, ValueError) as error:
        raise PairsInvalid(f"{path}: {error}") from error
    if not pairs:
        raise PairsInvalid(f"{path}: no pairs")
    return pairs


def data_sha256(pairs: Iterable[Pair]) -> str:
    """Hash of what was trained on: ids, prompts, grades and answers, in order."""
    digest = hashlib.sha256()
    for pair in pairs:
        digest.update(pair.model_dump_json(exclude={"provenance"}).encode() + b"\n")
    return digest.hexdigest()


def question_keys(pairs: Sequence[Pair]) -> list[str]:
    """Sorted keys of the questions asked, so that a later calibration can leave them out."""
    return sorted({question_key(pair.prompt) for pair in pairs})
