"""benchmarks/load/targets.py: what the engines of a benchmark are told, and where they listen."""

import json
from pathlib import Path

import pytest

from benchmarks.load.targets import BLOCK_TOKENS, cache_gib, chat, engines, free_port


def test_cache_is_as_large_as_the_tokens_asked_for(tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 24, "num_key_value_heads": 2, "hidden_size": 896, "num_attention_heads": 14}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    assert cache_gib(tmp_path, 1024) == pytest.approx(1024 * 12_288 / 2**30)


def test_engines_are_told_their_model_and_share(tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 2, "num_key_value_heads": 2, "hidden_size": 64, "num_attention_heads": 4}
    (tmp_path / "config.json").write_text(json.dumps(shape))
    tier1 = engines(tmp_path, 3, 4096)
    assert (tier1["model"], tier1["replicas"], tier1["block_size_tokens"]) == (str(tmp_path), 3, BLOCK_TOKENS)
    assert tier1["kv_cache_gib"] == cache_gib(tmp_path, 4096)


def test_every_request_asks_for_its_usage() -> None:
    body = chat("tier1", [{"role": "user", "content": "hi"}], 7)
    assert (body["stream"], body["stream_options"], body["max_tokens"]) == (True, {"include_usage": True}, 7)


def test_ports_are_free_and_of_loopback() -> None:
    assert len({free_port() for _ in range(20)}) > 1
