"""Only an intact artefact of the expected kind and labels is used."""

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import safetensors.numpy

from models.heads.artefact import read_questions
from models.heads.fit import ForestShape
from models.heads.train_panel import train_panel
from routing.heads.evidence import HeadKind
from routing.learning.labels import question_key
from serving.artefacts.heads import manifest_path, read_panel, tensors_path
from serving.errors import ConfigInvalid
from tests.models.graded import graded

PAIRS = graded(60, drafts=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artefact")
    train_panel(HeadKind.ROUTER, [("own", PAIRS)], ForestShape(n_trees=5), folder, seed=0)
    return folder


@pytest.fixture
def artefact(trained: Path, tmp_path: Path) -> Path:
    for path in (manifest_path(trained, HeadKind.ROUTER), tensors_path(trained, HeadKind.ROUTER)):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def edit(folder: Path, **changes: object) -> None:
    path = manifest_path(folder, HeadKind.ROUTER)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def replace_tensors(folder: Path, content: bytes) -> None:
    """Put other bytes there, with a manifest that vouches for them."""
    tensors_path(folder, HeadKind.ROUTER).write_bytes(content)
    edit(folder, tensors_sha256=hashlib.sha256(content).hexdigest())


def test_what_was_written_is_read_back(artefact: Path) -> None:
    panel = read_panel(artefact, HeadKind.ROUTER)
    assert panel.heads[0].card.categories == ("chat", "law", "sums")
    assert read_questions(artefact, HeadKind.ROUTER) == {question_key(p.prompt) for p in PAIRS}


def test_same_pairs_and_seed_give_the_same_artefact(artefact: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    train_panel(HeadKind.ROUTER, [("own", PAIRS)], ForestShape(n_trees=5), again, seed=0)
    assert manifest_path(again, HeadKind.ROUTER).read_bytes() == manifest_path(artefact, HeadKind.ROUTER).read_bytes()


def test_changed_tensors_are_refused(artefact: Path) -> None:
    """Router artefact with a wrong hash."""
    path = tensors_path(artefact, HeadKind.ROUTER)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigInvalid, match="sha256"):
        read_panel(artefact, HeadKind.ROUTER)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"label_set": ["bad_draft", "gain"]}, "labels"),
        ({"label_set": ["yes", "no"]}, "labels"),
        ({"feature_version": 0}, "feature version"),
        ({"format": "tierwise-head/0"}, "format"),
        ({"kind": "gate"}, "holds a gate"),
        ({"heads": []}, "not a manifest"),
        ({"surprise": 1}, "not a manifest"),
    ],
)
def test_manifest_that_means_something_else_is_refused(artefact: Path, changes: dict[str, object], says: str) -> None:
    """Router artefact with a wrong label set."""
    edit(artefact, **changes)
    with pytest.raises(ConfigInvalid, match=says):
        read_panel(artefact, HeadKind.ROUTER)


def test_pickle_is_refused_and_not_run(artefact: Path, tmp_path: Path) -> None:
    """Router artefact that is a pickle."""
    marker = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (marker,))  # type: ignore[return-value]

    replace_tensors(artefact, pickle.dumps(Payload()))
    with pytest.raises(ConfigInvalid, match="refused"):
        read_panel(artefact, HeadKind.ROUTER)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["0.idf0", "0.rate", "0.forest0.left"])
def test_missing_tensor_is_refused(artefact: Path, name: str) -> None:
    tensors = safetensors.numpy.load_file(tensors_path(artefact, HeadKind.ROUTER))
    del tensors[name]
    replace_tensors(artefact, safetensors.numpy.save(tensors))
    with pytest.raises(ConfigInvalid, match="missing"):
        read_panel(artefact, HeadKind.ROUTER)


def test_tensor_of_another_shape_or_without_numbers_is_refused(artefact: Path) -> None:
    tensors = safetensors.numpy.load_file(tensors_path(artefact, HeadKind.ROUTER))
    for broken in (tensors["0.bias"][:1], tensors["0.bias"] * float("nan")):
        replace_tensors(artefact, safetensors.numpy.save(tensors | {"0.bias": broken}))
        with pytest.raises(ConfigInvalid, match="bias"):
            read_panel(artefact, HeadKind.ROUTER)


def test_absent_artefact_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"router\.json"):
        read_panel(tmp_path, HeadKind.ROUTER)
