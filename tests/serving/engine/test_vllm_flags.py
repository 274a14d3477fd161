"""What a vLLM engine is told."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from serving.engine.vllm_flags import GIB, VllmSettings
from serving.errors import ConfigInvalid

# Every switch of the kernel layer away from its default, and what vLLM's parser makes of it.
SWITCHES: list[tuple[dict[str, Any], str, Any]] = [
    ({"enforce_eager": True}, "enforce_eager", True),
    ({"prefix_caching": False}, "enable_prefix_caching", False),
    ({"chunked_prefill": False}, "enable_chunked_prefill", False),
    ({"weights_format": "fp8"}, "quantization", "fp8"),
    ({"kv_cache_format": "fp8"}, "kv_cache_dtype", "fp8"),
    ({"kv_offload_gib": 8}, "kv_offloading_size", 8.0),
    ({"tensor_parallel": 2}, "tensor_parallel_size", 2),
    ({"expert_parallel": True}, "enable_expert_parallel", True),
    ({"gpu_memory_fraction": 0.5}, "gpu_memory_utilization", 0.5),
    ({"lora": {"max_rank": 8, "max_active": 3}}, "enable_lora", True),
    ({"lora": {"max_rank": 8, "max_active": 3}}, "max_lora_rank", 8),
    ({"lora": {"max_rank": 8, "max_active": 3}}, "max_loras", 3),
    ({"lora": {"max_rank": 8, "max_active": 3}}, "max_cpu_loras", 4),
    ({"speculation": {"method": "ngram", "tokens": 3}}, "speculative_config",
     {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}),
    ({"speculation": {"method": "suffix"}}, "speculative_config", {"method": "suffix", "num_speculative_tokens": 4}),
    ({"speculation": {"method": "draft_model", "model": "small/one"}}, "speculative_config",
     {"method": "draft_model", "num_speculative_tokens": 4, "model": "small/one"}),
]  # fmt: skip


@pytest.mark.parametrize(("switch", "flag", "value"), SWITCHES, ids=[f"{switch}" for switch, _, _ in SWITCHES])
def test_vllms_own_parser_takes_every_switch(switch: dict[str, Any], flag: str, value: Any) -> None:
    from serving.engine.vllm_engine import parse_flags

    usual = VllmSettings(model="m", model_path="/w")
    parsed = parse_flags(VllmSettings.model_validate(usual.model_dump() | switch).flags())
    assert getattr(parsed, flag) == value
    assert getattr(parse_flags(usual.flags()), flag) != value


def test_vllms_own_parser_takes_a_connector_for_disaggregated_prefill() -> None:
    from serving.engine.vllm_engine import parse_flags

    settings = VllmSettings.model_validate({"model": "m", "model_path": "/w", "kv_transfer": {"role": "kv_producer"}})
    parsed = parse_flags(settings.flags()).kv_transfer_config
    assert (parsed.kv_connector, parsed.kv_role) == ("NixlConnector", "kv_producer")
    assert parsed.kv_load_failure_policy == "recompute"


@pytest.fixture(scope="module")
def model_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model without weights: vLLM builds its whole configuration from the description alone."""
    from transformers import Qwen2Config

    folder = tmp_path_factory.mktemp("model")
    Qwen2Config(
        architectures=["Qwen2ForCausalLM"], vocab_size=256, hidden_size=64, intermediate_size=128,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, dtype="bfloat16",
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.mark.parametrize("role", ["kv_producer", "kv_consumer", "kv_both"])
def test_vllm_builds_an_engine_configuration_for_either_side_of_disaggregated_prefill(
    model_config: Path, role: str
) -> None:
    from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory

    built = engine_config(model_config, {"role": role, "extra": {"backend": "UCX"}}).kv_transfer_config
    assert built.is_kv_producer is (role != "kv_consumer")
    assert built.is_kv_consumer is (role != "kv_producer")
    assert built.kv_connector_extra_config == {"backend": "UCX"}
    assert "Nixl" in KVConnectorFactory.get_connector_class(built).__name__


def test_connector_that_vllm_does_not_have_is_refused_by_name(model_config: Path) -> None:
    with pytest.raises(ValidationError, match="NoSuchConnector"):
        engine_config(model_config, {"connector": "NoSuchConnector"})


def engine_config(folder: Path, kv_transfer: dict[str, Any]) -> Any:
    """vLLM's VllmConfig of an engine with this connector, as it is made before anything is loaded."""
    from vllm.engine.arg_utils import AsyncEngineArgs

    from serving.engine.vllm_engine import parse_flags

    settings = VllmSettings.model_validate(
        {"model": "m", "model_path": str(folder), "kv_cache_gib": 0.02, "cpu_threads": 1, "kv_transfer": kv_transfer}
    )
    return AsyncEngineArgs.from_cli_args(parse_flags(settings.flags())).create_engine_config()


@pytest.mark.parametrize(
    "switch",
    [
        {"speculation": {"method": "draft_model"}},
        {"speculation": {"method": "ngram", "model": "small/one"}},
        {"chunked_prefill": False, "step_tokens": 512},
        {"weights_format": "int3"},
        {"lora": {"max_active": 3, "max_loaded": 2}},
    ],
)
def test_switches_that_contradict_each_other_are_refused(switch: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        VllmSettings.model_validate({"model": "m", **switch})


def test_engine_over_several_gpus_keeps_to_worker_processes_of_its_node() -> None:
    flags = VllmSettings(model="m", model_path="/w", tensor_parallel=2).flags()
    assert flags["distributed_executor_backend"] == "mp"


def test_only_what_is_set_becomes_a_flag() -> None:
    flags = VllmSettings(model="m", model_path="/w").flags()
    assert (flags["model"], flags["served_model_name"]) == ("/w", "m")
    assert not {"kv_cache_memory_bytes", "block_size", "max_num_batched_tokens", "tool_call_parser"} & set(flags)
    assert None not in flags.values()


def test_half_a_gib_of_kv_cache_is_possible() -> None:
    assert VllmSettings(model="m", model_path="/w", kv_cache_gib=0.5).flags()["kv_cache_memory_bytes"] == GIB // 2


def test_named_flags_win_over_the_fields() -> None:
    settings = VllmSettings(model="m", model_path="/w", dtype="auto", engine_args={"dtype": "float32", "seed": 1})
    assert (settings.flags()["dtype"], settings.flags()["seed"]) == ("float32", 1)


def test_missing_weights_are_named_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIERWISE_CACHE", str(tmp_path))
    with pytest.raises(ConfigInvalid, match="no-such-model"):
        VllmSettings(model="no-such-model").flags()


def test_engine_listens_on_loopback_and_reports_to_nobody() -> None:
    env = VllmSettings(model="m").environment()
    assert (env["VLLM_HOST_IP"], env["VLLM_NO_USAGE_STATS"], env["DO_NOT_TRACK"]) == ("127.0.0.1", "1", "1")
    assert "OMP_NUM_THREADS" not in env


def test_threads_of_engines_that_share_cores_sleep_while_they_wait() -> None:
    env = VllmSettings(model="m", cpu_threads=2).environment()
    assert (env["OMP_NUM_THREADS"], env["OMP_WAIT_POLICY"]) == ("2", "PASSIVE")
    assert env["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"


def test_cpu_engine_that_shares_cores_has_one_process_that_computes() -> None:
    settings = VllmSettings(model="m", model_path="/w", cpu_threads=2)
    assert settings.flags()["distributed_executor_backend"] == "uni"
    assert settings.environment()["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"
    assert "distributed_executor_backend" not in VllmSettings(model="m", model_path="/w").flags()
