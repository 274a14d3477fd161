"""The generated profile is one that the server takes, with the same engine twice."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.load.dummy_weights import SHAPE_7B, write_shape
from benchmarks.load.targets import BLOCK_TOKENS
from benchmarks.run.lab import DEPLOYMENT_KEYS, Labs, lab_profile, real_tier1
from benchmarks.run.plan import Plan
from serving.config import load_config
from serving.engine.config import EngineConfig
from serving.engine.vllm_flags import VllmSettings

TINY: dict[str, Any] = {
    "model": "/somewhere/tiny",
    "engine": "vllm",
    "replicas": 1,
    "max_context_tokens": 4096,
    "max_queued_requests": 128,
    "kv_cache_gib": 0.5,
    "block_size_tokens": BLOCK_TOKENS,
    "cpu_threads": 1,
    "enforce_eager": True,
}


def profiles() -> list[Path]:
    return sorted(
        p for p in Path("deploy/profiles").glob("*.yaml") if p.stem in ("cpu", "gpu-24g", "gpu-80g", "gpu-141g")
    )


@pytest.mark.parametrize("tier1", [TINY, *(yaml.safe_load(p.read_text())["tier1"] for p in profiles())])
def test_server_takes_the_profile_and_both_engines_are_told_the_same(tmp_path: Path, tier1: dict[str, Any]) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(yaml.safe_dump(lab_profile(tier1, 8123, 8124, tmp_path)))
    config = load_config(path, {})
    assert config.router is None
    assert config.standin is not None
    shared = set(VllmSettings.model_fields)
    assert config.standin.model_dump(include=shared) == config.tier1.model_dump(include=shared)
    assert config.frontier.providers[0].base_url == "http://127.0.0.1:8124/v1"


def test_what_a_plain_server_is_not_told_is_what_only_a_deployment_has() -> None:
    only = set(EngineConfig.model_fields) - set(VllmSettings.model_fields)
    assert only >= DEPLOYMENT_KEYS
    assert not DEPLOYMENT_KEYS & set(VllmSettings.model_fields)


@pytest.mark.parametrize("profile", [p for p in profiles() if p.stem != "cpu"])
def test_on_a_gpu_each_engine_gets_half_and_absent_weights_are_made_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: Path
) -> None:
    made = tmp_path / "dummy-7b"
    monkeypatch.setattr("benchmarks.run.lab.weights_or_shape", lambda model, scratch: (made, True))
    tier1 = real_tier1(Plan(scratch=tmp_path, gpu=True, profile=profile))
    assert tier1["engine_args"]["load_format"] == "dummy"
    assert tier1["model"] == str(made)
    assert 2 * tier1["gpu_memory_fraction"] < 1
    assert "kv_cache_gib" not in tier1
    EngineConfig.model_validate(tier1)


def test_made_up_model_has_a_shape_and_a_tokenizer_and_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "qwen2.5-coder-0.5b-instruct"
    source.mkdir()
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
    for name in names:
        (source / name).write_text("{}")
    monkeypatch.setattr("benchmarks.load.dummy_weights.MODELS", tmp_path)
    folder = write_shape(tmp_path / "made")
    assert {path.name for path in folder.iterdir()} == {*names, "config.json"}
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    assert config.hidden_size == SHAPE_7B["hidden_size"]
    assert config.rope_parameters["rope_theta"] == 1000000.0


def test_running_stack_is_not_started_again(tmp_path: Path) -> None:
    plan = Plan(scratch=tmp_path, url="http://127.0.0.1:9", direct="http://127.0.0.1:8", direct_model="m")
    with Labs(plan) as labs:
        lab = labs.enter("tiny")
    assert lab.tier1 == ("http://127.0.0.1:9", "tier1")
    assert lab.direct == ("http://127.0.0.1:8", "m")
    assert lab.behind is None
