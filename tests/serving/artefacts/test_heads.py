"""Trained heads are refused at start, by the name of their key, when they do not fit."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest

from models.__main__ import main
from routing.gate.config import GateConfig
from routing.heads.evidence import HeadKind
from routing.ladder.policy import CategoryPolicy, PolicyConfig
from serving.artefacts.heads import manifest_path, read_learned, tensors_path
from serving.errors import ConfigInvalid
from tests.models.signalled import signalled


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(pair.model_dump_json() + "\n" for pair in signalled(80)))
    fresh = folder / "fresh.jsonl"
    fresh.write_text("".join(pair.model_dump_json() + "\n" for pair in signalled(80, seed=1)))
    out = str(folder / "artefact")
    assert main(["train-router", "--pairs", str(pairs), "--out", out]) == 0
    assert main(["calibrate", "--artefact", out, "--pairs", str(fresh), "--quality-target", "0.9"]) == 0
    return folder / "artefact"


@pytest.fixture
def artefact(made: Path, tmp_path: Path) -> Path:
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def refusal(policy: PolicyConfig) -> str:
    with pytest.raises(ConfigInvalid) as refused:
        read_learned(policy, GateConfig())
    return str(refused.value.message)


def test_calibrated_artefact_is_taken(artefact: Path) -> None:
    learned = read_learned(PolicyConfig(artefact=artefact, quality_target=0.9), GateConfig())
    assert learned.router is not None
    assert learned.gate is None


def test_nothing_named_is_nothing_read() -> None:
    learned = read_learned(PolicyConfig(), GateConfig())
    assert (learned.router, learned.gate) == (None, None)


def test_changed_tensors_are_refused_by_name(artefact: Path) -> None:
    path = tensors_path(artefact, HeadKind.ROUTER)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    said = refusal(PolicyConfig(artefact=artefact, quality_target=0.9))
    assert "policy.artefact" in said
    assert "sha256" in said


def test_pickle_is_refused_by_name(artefact: Path) -> None:
    """A pickle, even one that its manifest vouches for."""
    content = pickle.dumps({"weights": 1})
    tensors_path(artefact, HeadKind.ROUTER).write_bytes(content)
    manifest = manifest_path(artefact, HeadKind.ROUTER)
    vouched = json.loads(manifest.read_text()) | {"tensors_sha256": hashlib.sha256(content).hexdigest()}
    manifest.write_text(json.dumps(vouched))
    assert "policy.artefact" in refusal(PolicyConfig(artefact=artefact, quality_target=0.9))


def test_other_labels_are_refused_by_name(artefact: Path) -> None:
    manifest = manifest_path(artefact, HeadKind.ROUTER)
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"label_set": ["good", "bad"]}))
    assert "labels" in refusal(PolicyConfig(artefact=artefact, quality_target=0.9))


def test_artefact_of_the_other_kind_is_missing(artefact: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"gate\.artefact"):
        read_learned(PolicyConfig(quality_target=0.9), GateConfig(artefact=artefact))


@pytest.mark.parametrize(
    "policy",
    [{"quality_target": 0.97}, {"quality_target": 0.9, "categories": {"chat": CategoryPolicy(quality_target=0.5)}}],
)
def test_target_that_nobody_calibrated_is_refused(artefact: Path, policy: dict[str, object]) -> None:
    said = refusal(PolicyConfig.model_validate({"artefact": artefact, **policy}))
    assert "quality_target" in said
    assert "0.9" in said
