"""The bounds follow from bytes and arithmetic; what is measured is positive and finite."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from benchmarks.run import ceiling
from benchmarks.run.ceiling import Machine, Weights, decode_bound_tps, prefill_bound_tps, read_weights

SEVEN_B = Weights(bytes_read=14_000_000_000, computed=7_000_000_000)
H100 = Machine(bytes_per_s=3.35e12, flop_per_s=989e12, dtype="bfloat16")


def test_one_request_is_bound_by_memory_and_many_by_arithmetic() -> None:
    assert decode_bound_tps(H100, SEVEN_B, 1) == pytest.approx(239.3, abs=0.1)
    assert decode_bound_tps(H100, SEVEN_B, 100_000) == pytest.approx(70_643, abs=1)
    assert prefill_bound_tps(H100, SEVEN_B) == pytest.approx(70_643, abs=1)


@given(st.integers(1, 1000), st.floats(1e9, 1e13), st.floats(1e10, 1e15))
def test_more_requests_a_step_never_lower_the_bound(batch: int, bytes_per_s: float, flop_per_s: float) -> None:
    machine = Machine(bytes_per_s, flop_per_s, "bfloat16")
    here, more = decode_bound_tps(machine, SEVEN_B, batch), decode_bound_tps(machine, SEVEN_B, batch + 1)
    assert here <= more <= prefill_bound_tps(machine, SEVEN_B)


@pytest.mark.parametrize(("tied", "expected"), [(True, 10 * 4 + 6), (False, 6)])
def test_input_embedding_counts_only_where_it_is_the_output_matrix_too(
    tmp_path: Path, tied: bool, expected: int
) -> None:
    tensors = {
        "model.embed_tokens.weight": np.zeros((10, 4), np.float16),
        "model.layers.0.w": np.zeros((2, 3), np.float16),
    }
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "np"})
    (tmp_path / "config.json").write_text(json.dumps({"tie_word_embeddings": tied}))
    assert read_weights(tmp_path) == Weights(bytes_read=2 * expected, computed=expected)


def test_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no safetensors"):
        read_weights(tmp_path)


def test_the_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "BUFFER_BYTES", 2**20)
    monkeypatch.setattr(ceiling, "MATRIX_SIDE", 64)
    machine = ceiling.measure_machine()
    assert machine.bytes_per_s > 1e6
    assert machine.flop_per_s > 1e6
    found = ceiling.ceiling(machine, SEVEN_B)
    assert "at most" in ceiling.text("model", found)
