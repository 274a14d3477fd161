"""A profile's memory is known before anything is rented, and what does not fit is refused by name."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.__main__ import main
from serving.commands.plan import (
    CATALOG,
    EngineBudget,
    Plan,
    engine_budget,
    plan,
    plan_lines,
    shape_from_config,
    shape_of,
)
from serving.config import SECRET, StackConfig, load_config
from serving.engine.vllm_flags import GIB, LoraSettings, VllmSettings
from serving.errors import ConfigInvalid, DoesNotFit

PROFILES = Path(__file__).resolve().parents[3] / "deploy" / "profiles"
ON_ONE_GPU = ["gpu-24g", "gpu-80g", "gpu-141g"]


@pytest.fixture(autouse=True)
def nothing_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue's shapes alone."""
    monkeypatch.setenv("TIERWISE_CACHE", str(tmp_path))


def tree_of(name: str) -> dict[str, Any]:
    tree: dict[str, Any] = yaml.safe_load((PROFILES / f"{name}.yaml").read_text())
    return tree


def config_of(tree: dict[str, Any], tmp_path: Path, **sections: dict[str, Any]) -> StackConfig:
    for section, values in sections.items():
        tree[section] = {**tree[section], **values}
    path = tmp_path / "profile.yaml"
    path.write_text(yaml.safe_dump(tree))
    names = set(SECRET.findall(path.read_text()))
    return load_config(path, dict.fromkeys(names, "sqlite:///x"))


def changed(name: str, tmp_path: Path, **sections: dict[str, Any]) -> StackConfig:
    return config_of(tree_of(name), tmp_path, **sections)


def refusal(name: str, tmp_path: Path, **sections: dict[str, Any]) -> str:
    with pytest.raises(DoesNotFit) as refused:
        plan(changed(name, tmp_path, **sections))
    return refused.value.message


@pytest.mark.parametrize("name", ["cpu", "cluster", *ON_ONE_GPU])
def test_every_profile_fits_the_machine_it_names(name: str, tmp_path: Path) -> None:
    engines, hardware = plan(changed(name, tmp_path))
    assert {"router", "tier1"} <= {engine.name for engine in engines}
    for engine in engines:
        assert engine.concurrency(engine.max_context_tokens)
        assert engine.allowed_gib is None or engine.total_gib <= engine.allowed_gib
    assert hardware is not None or name == "cpu"


@pytest.mark.parametrize("name", ON_ONE_GPU)
def test_two_engines_share_the_one_gpu(name: str, tmp_path: Path) -> None:
    config = changed(name, tmp_path)
    assert config.router is not None
    assert config.router.num_gpus + config.tier1.num_gpus <= 1
    assert (config.router.gpu_memory_fraction or 1) + (config.tier1.gpu_memory_fraction or 1) <= 0.96


@pytest.mark.parametrize("name", ON_ONE_GPU)
def test_comment_of_the_profile_is_the_plan(name: str, tmp_path: Path) -> None:
    """The sums in the comments are those that `plan` prints."""
    text = (PROFILES / f"{name}.yaml").read_text()
    engines = {engine.name: engine for engine in plan(changed(name, tmp_path)).engines}
    for label, budget in (("tier 1", engines["tier1"]), ("router", engines["router"])):
        row = re.search(rf"^#\s+{label}\s+([\d.+ ]+)=\s+([\d.]+)\s+\(fraction (\.\d+): ([\d.]+)\)", text, re.MULTILINE)
        assert row is not None, label
        parts = [float(part) for part in row[1].split("+")]
        worked = [budget.weights_gib, budget.kv_gib, budget.activations_gib, budget.runtime_gib]
        assert parts == pytest.approx(worked, abs=0.0501)
        assert float(row[2]) == pytest.approx(budget.total_gib, abs=0.0501)
        assert float(row[4]) == pytest.approx(budget.allowed_gib, abs=0.0501)


def test_kv_cache_is_counted_in_whole_blocks(tmp_path: Path) -> None:
    """Half a GiB at 12 KiB a token and 32 tokens a block: 1,365 blocks."""
    (tier1,) = [engine for engine in plan(changed("cpu", tmp_path)).engines if engine.name == "tier1"]
    assert (tier1.block_tokens, tier1.kv_tokens) == (32, 1365 * 32)
    assert tier1.weights_gib == pytest.approx(1_260_334_848 / GIB)


def test_kv_cache_takes_what_the_rest_leaves_when_it_is_not_set(tmp_path: Path) -> None:
    tier1 = plan(changed("cluster", tmp_path)).engines[1]
    assert tier1.total_gib == pytest.approx(79.0 * 0.92)
    assert tier1.kv_gib > 50


@pytest.mark.parametrize(("length", "at_once"), [(1, 3), (32, 3), (33, 2), (49, 1), (100, 1), (101, None)])
def test_requests_at_once_obey_blocks_context_and_the_limit(length: int, at_once: int | None) -> None:
    budget = EngineBudget(
        name="tier1", model="m", replicas=1, gpus=1, weights_gib=1, adapters_gib=0, kv_gib=1, activations_gib=0,
        runtime_gib=0, allowed_gib=4, block_tokens=16, kv_tokens=112, max_context_tokens=100, max_concurrent_requests=3,
    )  # fmt: skip
    assert budget.concurrency(length) == at_once


# What cannot fit


def test_model_larger_than_its_share_is_refused(tmp_path: Path) -> None:
    said = refusal("gpu-24g", tmp_path, tier1={"weights_format": "model"})
    assert "tier1: weights, activations and runtime take 15.7 GiB" in said
    assert "its share of a GPU is 15.4 GiB" in said


def test_kv_cache_that_does_not_hold_one_request_is_refused(tmp_path: Path) -> None:
    said = refusal("gpu-80g", tmp_path, tier1={"kv_cache_gib": 1})
    assert "fewer than one request of max_context_tokens 32768" in said


def test_fraction_of_memory_beyond_the_fraction_of_the_gpu_is_refused(tmp_path: Path) -> None:
    assert "set gpu_memory_fraction to at most" in refusal("gpu-80g", tmp_path, router={"gpu_memory_fraction": 0.5})


def test_neighbours_on_a_gpu_must_name_their_kv_cache(tmp_path: Path) -> None:
    assert "router: shares a GPU: set kv_cache_gib" in refusal("gpu-80g", tmp_path, router={"kv_cache_gib": None})


def test_more_gpus_than_there_are_is_refused(tmp_path: Path) -> None:
    said = refusal("cluster", tmp_path, hardware={"gpus": 8})
    assert "need 8.5 GPUs, hardware.gpus is 8" in said


def test_more_host_memory_than_there_is_is_refused(tmp_path: Path) -> None:
    tree = tree_of("cpu") | {"hardware": {"name": "a small machine", "memory_gib": 4}}
    with pytest.raises(DoesNotFit, match=r"take 6\.9 GiB of 4 GiB"):
        plan(config_of(tree, tmp_path))


def test_every_reason_is_named_at_once(tmp_path: Path) -> None:
    said = refusal("gpu-80g", tmp_path, router={"kv_cache_gib": 50}, tier1={"kv_cache_gib": 0.5})
    assert "router:" in said
    assert "tier1:" in said


# Where the shape comes from


def test_shape_comes_from_the_folder_when_the_model_is_here(tmp_path: Path) -> None:
    config = {
        "architectures": ["Qwen2ForCausalLM"], "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 1000,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    shape = shape_of(VllmSettings(model="qwen2.5-7b-instruct", model_path=str(tmp_path)))
    assert (shape.layers, shape.head_dim, shape.qkv_bias, shape.tied_embeddings) == (2, 16, True, False)


@pytest.mark.parametrize("model", ["qwen2.5-7b-instruct", "Qwen/Qwen2.5-7B-Instruct"])
def test_shape_comes_from_the_catalogue_by_either_name(model: str) -> None:
    assert shape_of(VllmSettings(model=model)).layers == 28


def test_unknown_model_and_architecture_are_named() -> None:
    with pytest.raises(ConfigInvalid, match="somebody/else"):
        shape_of(VllmSettings(model="somebody/else"))
    with pytest.raises(ConfigInvalid, match="MambaForCausalLM"):
        shape_from_config({"architectures": ["MambaForCausalLM"]}, "config.json")
    with pytest.raises(ConfigInvalid, match="hidden_size"):
        shape_from_config(
            {"architectures": ["LlamaForCausalLM"], "num_attention_heads": 1, "num_hidden_layers": 1}, "c"
        )


def test_gpu_without_its_memory_is_a_question(tmp_path: Path) -> None:
    tree = tree_of("gpu-80g")
    del tree["hardware"]
    with pytest.raises(ConfigInvalid, match=r"hardware\.gpu_memory_gib"):
        plan(config_of(tree, tmp_path))


def test_catalogue_is_where_the_plan_looks_for_it() -> None:
    assert CATALOG.is_file()


# The command


def test_command_prints_every_engine_and_the_lengths_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(PROFILES / "cpu.yaml"), "--lengths", "100,2000"]) == 0
    printed = capsys.readouterr().out
    assert "at once, 2,000 tokens each" in printed
    assert "standin" in printed


def test_command_refuses_with_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "none")
    tree = tree_of("gpu-24g")
    tree["tier1"]["kv_cache_gib"] = 20
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(tree))
    assert main(["plan", str(tmp_path / "p.yaml")]) == 2
    assert "does not fit" in capsys.readouterr().err


def test_profile_without_engines_of_weights_says_so(tmp_path: Path) -> None:
    assert "no engine" in plan_lines(plan(changed("noop", tmp_path)))


def test_places_for_adapters_leave_less_for_the_cache(tmp_path: Path) -> None:
    config = changed("gpu-80g", tmp_path)
    assert config.tier1 is not None
    whole = config.tier1.model_copy(update={"num_gpus": 1, "kv_cache_gib": None})
    lora = whole.model_copy(update={"lora": LoraSettings(max_rank=16, max_active=2)})
    shape = shape_of(whole)
    without, adapted = (engine_budget("tier1", shape, section, config.hardware) for section in (whole, lora))
    assert without.adapters_gib == 0
    assert adapted.adapters_gib == pytest.approx(2 * shape.lora_bytes(16) / GIB)
    assert adapted.kv_gib == pytest.approx(without.kv_gib - adapted.adapters_gib)
    assert "adapters, GiB" in plan_lines(Plan((adapted,), config.hardware))
    assert "adapters" not in plan_lines(Plan((without,), config.hardware))


def test_adapters_on_a_cpu_lie_in_memory_twice(tmp_path: Path) -> None:
    engines = plan(changed("cpu", tmp_path, tier1={"lora": {"max_rank": 8, "max_active": 1, "max_loaded": 3}})).engines
    tier1 = next(engine for engine in engines if engine.name == "tier1")
    assert tier1.adapters_gib == pytest.approx(4 * 2 * 4_399_104 / GIB)  # as many numbers as the shipped adapter has
