"""Which LoRA adapters may be served: from the allowed folders, plain files, safetensors, a rank the engine takes."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from routing.ladder.policy import PolicyConfig
from serving.engine.adapters import AdapterLoader, read_adapter, read_adapters
from serving.engine.vllm_flags import LoraSettings
from serving.errors import ConfigInvalid
from serving.request.call import Adapter
from tests.serving.lora_files import write_adapter


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "artefacts" / "polite")


def read(folder: Path, max_rank: int = 8) -> Adapter:
    return read_adapter("polite", folder, "small", max_rank, [folder.parent])


def test_served_name_says_model_adapter_and_which_bytes(folder: Path) -> None:
    first = read(folder)
    assert first.served_as.startswith("small:polite@")
    assert first.served_as.endswith(first.files_sha256[:12])
    assert read(folder) == first
    assert read(write_adapter(folder, value=1.0)).served_as != first.served_as
    assert read(write_adapter(folder, lora_alpha=16)).served_as != first.served_as  # scales the same weights otherwise


def test_files_that_say_nothing_of_the_weights_do_not_make_another_version(folder: Path) -> None:
    before = read(folder)
    (folder / "loss.png").write_bytes(b"\x89PNG")
    assert read(folder) == before


def elsewhere(folder: Path) -> Path:
    return write_adapter(folder.parents[1] / "artefacts-of-others" / "polite")


def linked(folder: Path) -> Path:
    """A link inside the allowed folder that leads out of it."""
    (folder.parent / "link").symlink_to(elsewhere(folder))
    return folder.parent / "link"


@pytest.mark.parametrize("make", [elsewhere, linked, lambda folder: folder / ".." / ".." / "artefacts-of-others"])
def test_adapter_from_another_folder_is_refused(folder: Path, make: Callable[[Path], Path]) -> None:
    with pytest.raises(ConfigInvalid, match="none of the folders that adapters may come from"):
        read_adapter("polite", make(folder), "small", 8, [folder.parent])


def pickle_beside(folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04.")


def linked_weights(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.rename(folder.parent / "weights.safetensors")
    weights.symlink_to(folder.parent / "weights.safetensors")


def not_safetensors(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"PK\x03\x04 a pickle in a zip")


def whole_matrix(folder: Path) -> None:
    tensors = {"base_model.model.lm_head.weight": np.zeros((2, 2), np.float32)}
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (pickle_beside, r"adapter_model\.bin: an adapter's folder holds plain files"),
        (linked_weights, "holds plain files"),
        (not_safetensors, "not safetensors"),
        (whole_matrix, r"lm_head\.weight, expected lora_A and lora_B"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "cannot be read"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "not the settings of a LoRA"),
        (lambda folder: write_adapter(folder, r=16), r"rank 16, tier1\.lora\.max_rank is 8"),
        (lambda folder: write_adapter(folder, peft_type="IA3"), "only plain LoRA"),
        (lambda folder: write_adapter(folder, modules_to_save=["lm_head"]), "only plain LoRA"),
        (lambda folder: write_adapter(folder, use_dora=True), "only plain LoRA"),
    ],
)
def test_what_an_engine_should_not_read_is_refused_by_name(
    folder: Path, spoil: Callable[[Path], object], why: str
) -> None:
    spoil(folder)
    with pytest.raises(ConfigInvalid, match=why):
        read(folder)


def test_registry_is_allowed_and_the_key_is_named(tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    policy = PolicyConfig(adapters={"a": write_adapter(registry / "artefacts" / "a-1")}, default_adapter="a")
    lora = LoraSettings(folders=(tmp_path / "none",))
    assert read_adapters(policy, "small", lora, registry)["a"].served_as.startswith("small:a@")
    with pytest.raises(ConfigInvalid, match=r"^policy\.adapters\.a: .*none of the folders"):
        read_adapters(policy, "small", lora, None)


def test_adapters_for_an_engine_that_takes_none_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"set tier1\.lora"):
        read_adapters(PolicyConfig(adapters={"a": folder}), "small", None, folder.parents[1])


LAYER_0 = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        ({LAYER_0: np.zeros((8, 8), np.float16)}, None),
        (
            {LAYER_0: np.zeros((8, 16), np.float16)},
            r"lora_A\.weight: shape \[4, 8\] does not fit the model's \[8, 16\]",
        ),
        (
            {LAYER_0: np.zeros((16, 8), np.float16)},
            r"lora_B\.weight: shape \[8, 4\] does not fit the model's \[16, 8\]",
        ),
        ({"model.norm.weight": np.zeros(8, np.float16)}, r"the model has no model\.layers\.0\.self_attn\.q_proj"),
    ],
    ids=["fits", "another input", "another output", "no such layer"],
)
async def test_adapter_of_another_model_never_reaches_the_engine(
    folder: Path, tmp_path: Path, weights: dict[str, np.ndarray], why: str | None
) -> None:
    """vLLM takes one, and dies of it in a step."""
    base, loading = tmp_path / "base", Loading()
    base.mkdir()
    safetensors.numpy.save_file(weights, base / "model-00001-of-00001.safetensors")
    said = await AdapterLoader(loading, base).load(read(folder))
    if why is None:
        assert said is None
    else:
        assert said is not None
        assert re.search(why, said)
    assert bool(loading.told) is (why is None)


class Loading:
    """What an engine was told to read."""

    def __init__(self, *answers: str | None) -> None:
        self.told: list[tuple[str, str]] = []
        self._answers = list(answers)

    async def __call__(self, name: str, folder: str) -> str | None:
        self.told.append((name, folder))
        await asyncio.sleep(0)
        return self._answers.pop(0) if self._answers else None


async def test_replica_reads_an_adapter_once_for_all_requests(folder: Path) -> None:
    loading, adapter = Loading(), read(folder)
    loader = AdapterLoader(loading, folder.parent)
    assert set(await asyncio.gather(*[loader.load(adapter) for _ in range(20)])) == {None}
    assert loading.told == [(adapter.served_as, adapter.folder)]


async def test_files_changed_after_the_check_never_reach_the_engine(folder: Path) -> None:
    loading, adapter = Loading(), read(folder)
    write_adapter(folder, value=2.0)
    why = await AdapterLoader(loading, folder.parent).load(adapter)
    assert why is not None
    assert "not those that were checked" in why
    assert loading.told == []


async def test_refusal_of_the_engine_is_passed_on_and_tried_again(folder: Path) -> None:
    loading, adapter = Loading("shapes differ"), read(folder)
    loader = AdapterLoader(loading, folder.parent)
    assert await loader.load(adapter) == "shapes differ"
    assert await loader.load(adapter) is None
