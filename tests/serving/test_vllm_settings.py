"""What a vLLM engine is told."""

from pathlib import Path

import pytest

from serving.errors import ConfigInvalid
from serving.vllm_settings import GIB, VllmSettings


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
