"""Reads a learned head from disk: safetensors and JSON, which are checked against each other first.

A refusal is ConfigInvalid with the reason, so a gateway that reloads keeps what it had.
"""

import hashlib
from pathlib import Path
from typing import Final

import safetensors.numpy
from pydantic import ValidationError
from safetensors import SafetensorError

from routing.gate.config import GateConfig
from routing.heads.decide import Learned
from routing.heads.evidence import HeadKind
from routing.heads.head import Panel, panel_of
from routing.heads.manifest import Manifest
from routing.ladder.policy import PolicyConfig
from serving.errors import ConfigInvalid

MAX_MANIFEST_BYTES: Final = 16 * 2**20
MAX_TENSORS_BYTES: Final = 2 * 2**30


def manifest_path(folder: Path, kind: HeadKind) -> Path:
    """Where the manifest of a kind lies in an artefact's folder."""
    return folder / f"{kind}.json"


def tensors_path(folder: Path, kind: HeadKind) -> Path:
    """Where the tensors of a kind lie. The name is fixed, so a manifest cannot point elsewhere."""
    return folder / f"{kind}.safetensors"


def read_panel(folder: Path, kind: HeadKind) -> Panel:
    """The heads of one kind.

    Raises ConfigInvalid when a file is missing, too large or not safetensors, has another hash or other labels.
    """
    manifest = read_manifest(folder, kind)
    path = tensors_path(folder, kind)
    content = _read(path, MAX_TENSORS_BYTES)
    seen = hashlib.sha256(content).hexdigest()
    if seen != manifest.tensors_sha256:
        raise ConfigInvalid(f"{path}: sha256 {seen} is not {manifest.tensors_sha256} of its manifest; train again")
    try:
        return panel_of(manifest, safetensors.numpy.load(content))
    except (SafetensorError, ValueError, TypeError) as error:
        raise ConfigInvalid(f"{path}: refused: {error}") from error


def read_manifest(folder: Path, kind: HeadKind) -> Manifest:
    """The manifest alone. Raises ConfigInvalid."""
    path = manifest_path(folder, kind)
    try:
        manifest = Manifest.model_validate_json(_read(path, MAX_MANIFEST_BYTES))
    except ValidationError as error:
        raise ConfigInvalid(f"{path}: not a manifest of a head: {error}") from error
    if manifest.kind is not kind:
        raise ConfigInvalid(f"{path}: holds a {manifest.kind}, expected a {kind}")
    return manifest


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        if path.stat().st_size > max_bytes:
            raise ConfigInvalid(f"{path}: larger than {max_bytes} bytes")
        return path.read_bytes()
    except OSError as error:
        raise ConfigInvalid(f"{path}: cannot be read: {error.strerror}") from error


def read_learned(policy: PolicyConfig, gate: GateConfig) -> Learned:
    """The heads of `policy.artefact` and `gate.artefact`. Raises ConfigInvalid naming the key and the reason.

    Refused: what `read_panel` refuses (wrong hash, other labels, a pickle), what was never calibrated, and a quality
    target that it was not calibrated for.
    """
    router = None if policy.artefact is None else checked("policy.artefact", policy.artefact, HeadKind.ROUTER, policy)
    judge = None if gate.artefact is None else checked("gate.artefact", gate.artefact, HeadKind.GATE, policy)
    if router is not None and judge is not None:
        lacking = set(judge.quality_targets) - {joint.quality_target for joint in router.manifest.joint}
        if lacking:
            raise ConfigInvalid(
                f"policy.artefact: the router was not calibrated for this gate at {sorted(lacking)};"
                " run `python -m models calibrate --kind router --draft-price SHARE`"
            )
    return Learned(router, judge)


def checked(key: str, folder: Path, kind: HeadKind, policy: PolicyConfig) -> Panel:
    """One panel, calibrated for every quality target that the policy names."""
    try:
        panel = read_panel(folder, kind)
    except ConfigInvalid as error:
        raise ConfigInvalid(f"{key}: {error.message}") from error
    wanted = {policy.quality_target} | {
        c.quality_target for c in policy.categories.values() if c.quality_target is not None
    }
    missing = wanted - set(panel.quality_targets)
    if missing:
        known = ", ".join(map(str, panel.quality_targets)) or "none"
        raise ConfigInvalid(
            f"{key}: {manifest_path(folder, kind)} was not calibrated for quality_target {sorted(missing)}"
            f" (for: {known}); run `python -m models calibrate`"
        )
    return panel
