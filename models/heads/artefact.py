"""Write learned heads where serving reads them: tensors first, then the manifest that names their hash."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from routing.heads.evidence import HeadKind
from routing.heads.head import Head, tensors_of
from routing.heads.manifest import Manifest
from serving.artefacts.heads import manifest_path, read_panel, tensors_path

QUESTIONS = "questions"  # uint8 (n, 16): keys of the questions trained on, so that calibration can leave them out


def write_artefact(folder: Path, manifest: Manifest, heads: Sequence[Head], questions: Sequence[str]) -> Manifest:
    """Write both files and read them back. Returns the manifest with the hash of what was written.

    manifest: its tensors_sha256 is replaced. A reader between the two writes sees a wrong hash and refuses.
    Raises ConfigInvalid when what was written cannot be read back.
    """
    tensors: dict[str, NDArray[np.generic]] = {
        QUESTIONS: np.frombuffer(bytes.fromhex("".join(questions)), dtype=np.uint8).reshape(len(questions), -1)
    }
    for number, head in enumerate(heads):
        tensors |= tensors_of(number, head)
    content = safetensors.numpy.save(tensors)
    written = manifest.model_copy(update={"tensors_sha256": hashlib.sha256(content).hexdigest()})
    folder.mkdir(parents=True, exist_ok=True)
    _replace(tensors_path(folder, manifest.kind), content)
    write_manifest(folder, written)
    read_panel(folder, manifest.kind)
    return written


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest alone, for example with new thresholds."""
    _replace(manifest_path(folder, manifest.kind), manifest.model_dump_json(indent=1).encode())


def read_questions(folder: Path, kind: HeadKind) -> frozenset[str]:
    """Keys of the questions that an artefact was trained on."""
    tensors: Mapping[str, NDArray[np.uint8]] = safetensors.numpy.load_file(tensors_path(folder, kind))
    return frozenset(bytes(row).hex() for row in tensors[QUESTIONS])


def _replace(path: Path, content: bytes) -> None:
    half = path.with_name(path.name + ".part")
    half.write_bytes(content)
    os.replace(half, path)
