"""Where weights are looked for: fetched ones first, then a folder or a hub id; anything else names the command."""

from pathlib import Path

import pytest

from serving.artefacts.weights import ROOT, cache_dir, model_path
from serving.errors import ConfigInvalid


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIERWISE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def fetched(cache: Path, name: str) -> Path:
    folder = cache / "models" / name
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    return folder


def test_cache_is_in_the_repository_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIERWISE_CACHE", raising=False)
    assert cache_dir() == ROOT / ".cache" / "tierwise"
    assert (ROOT / "pyproject.toml").is_file()
    monkeypatch.setenv("TIERWISE_CACHE", "elsewhere")
    assert cache_dir() == Path("elsewhere")


def test_fetched_model_is_found_by_its_catalog_name(cache: Path) -> None:
    folder = fetched(cache, "tiny")
    assert model_path("tiny") == str(folder)


def test_fetched_model_comes_before_a_hub_id_of_the_same_name(cache: Path) -> None:
    folder = fetched(cache, "owner/name")
    assert model_path("owner/name") == str(folder)


def test_local_folder_is_taken_as_it_is(cache: Path, tmp_path: Path) -> None:
    assert model_path(str(tmp_path)) == str(tmp_path)


def test_hub_id_is_left_to_the_engine(cache: Path) -> None:
    assert model_path("Qwen/Qwen2.5-7B-Instruct") == "Qwen/Qwen2.5-7B-Instruct"


@pytest.mark.parametrize("name", ["small", "a/b/c", "no/such/folder/at/all"])
def test_missing_weights_name_the_command_that_fetches_them(cache: Path, name: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"python -m models fetch {name}"):
        model_path(name)


def test_folder_without_a_config_is_half_a_download(cache: Path) -> None:
    (cache / "models" / "small").mkdir(parents=True)
    with pytest.raises(ConfigInvalid):
        model_path("small")
