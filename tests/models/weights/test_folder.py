"""How a finished model is told from anything else."""

from pathlib import Path

from models.weights.folder import MANIFEST, ROOT, cache_dir, read_manifest, ready, write_manifest
from tests.models.origins import Parcel


def test_cache_is_the_argument_else_the_environment_else_the_repository(tmp_path: Path) -> None:
    environ = {"TIERWISE_CACHE": str(tmp_path / "configured")}
    assert cache_dir(tmp_path / "given", environ) == tmp_path / "given"
    assert cache_dir(None, environ) == tmp_path / "configured"
    assert cache_dir(None, {"TIERWISE_CACHE": ""}) == ROOT / ".cache" / "tierwise"
    assert cache_dir(None, {}) == ROOT / ".cache" / "tierwise"


def test_folder_is_ready_when_every_file_has_its_size(tmp_path: Path) -> None:
    model = Parcel().model()
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "model.safetensors").write_bytes(b"weights")
    manifest = write_manifest(tmp_path, model, "a test")
    assert ready(model, tmp_path) == manifest
    (tmp_path / "original" / "model.safetensors").write_bytes(b"weight")
    assert ready(model, tmp_path) is None


def test_model_of_another_name_is_not_ready(tmp_path: Path) -> None:
    write_manifest(tmp_path, Parcel().model(), "a test")
    assert ready(Parcel(name="other").model(), tmp_path) is None


def test_manifest_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None
    for text in ("", "{}", "[1]", '{"format": 2}', "\0"):
        (tmp_path / MANIFEST).write_text(text)
        assert read_manifest(tmp_path) is None
