"""What the machine would allow at best, measured: bytes and arithmetic per second, and the tokens they bound.

A decoded token reads every weight once and does two operations with each. Requests of one step share the reading but
not the arithmetic. So no engine passes min(batch * bandwidth / bytes, arithmetic / (2 * weights)) tokens a second, and
no prefill passes arithmetic / (2 * weights). Keys and values are left out, which leaves it a bound.
"""

import json
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

REPEATS = 5
BUFFER_BYTES = 512 * 2**20
MATRIX_SIDE = 2048
MATRIX_SIDE_GPU = 8192


@dataclass(frozen=True, slots=True)
class Machine:
    """Measured: bytes read per second, and floating-point operations per second of the best of the dtypes tried."""

    bytes_per_s: float
    flop_per_s: float
    dtype: str


@dataclass(frozen=True, slots=True)
class Weights:
    """What every token meets. bytes_read: per decoded step. computed: numbers that are multiplied per token."""

    bytes_read: int
    computed: int


def decode_bound_tps(machine: Machine, weights: Weights, batch: int) -> float:
    """Tokens a second that `batch` requests in one step cannot pass together."""
    return min(batch * machine.bytes_per_s / weights.bytes_read, machine.flop_per_s / (2 * weights.computed))


def prefill_bound_tps(machine: Machine, weights: Weights) -> float:
    """Prompt tokens a second that no engine passes without a cache."""
    return machine.flop_per_s / (2 * weights.computed)


def read_weights(folder: Path) -> Weights:
    """From the headers of a folder's safetensors files and its config. Tensors are not loaded.

    The input embedding is looked up, not read whole, unless it is also the output matrix (tied).
    Raises FileNotFoundError when the folder has no safetensors file.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(f"no safetensors file in {folder}")
    tied = bool(json.loads((folder / "config.json").read_text()).get("tie_word_embeddings"))
    read = computed = 0
    for path in files:
        for name, tensor in header(path).items():
            if "embed_tokens" in name and not tied:
                continue
            begin, end = tensor["data_offsets"]
            read += end - begin
            computed += prod(tensor["shape"])
    return Weights(read, computed)


def shape_weights(config: Mapping[str, Any]) -> Weights:
    """Of a dense decoder with grouped heads and a gated MLP, from its config.json. Two bytes a number."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * config["intermediate_size"]
    computed = layers * layer + config["vocab_size"] * hidden
    return Weights(bytes_read=2 * computed, computed=computed)


def header(path: Path) -> dict[str, Any]:
    """Names, shapes and offsets of a safetensors file."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        tensors: dict[str, Any] = json.loads(file.read(length))
    tensors.pop("__metadata__", None)
    return tensors


def measure_machine(gpu: bool = False) -> Machine:
    """The best of several repeats with all cores, or on the first GPU."""
    import torch  # noqa: PLC0415 - seconds to import

    device = torch.device("cuda" if gpu else "cpu")

    def best_s(work: Callable[[], object]) -> float:
        times = []
        for _ in range(REPEATS + 1):  # the first one warms up
            if gpu:
                torch.cuda.synchronize()
            started = time.perf_counter()
            work()
            if gpu:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
        return min(times[1:])

    def moved() -> float:
        source = torch.ones(BUFFER_BYTES // 4, dtype=torch.float32, device=device)
        target = torch.empty_like(source)
        copied = 2 * BUFFER_BYTES / best_s(lambda: target.copy_(source))
        return max(BUFFER_BYTES / best_s(source.sum), copied)

    bytes_per_s = moved()
    side = MATRIX_SIDE_GPU if gpu else MATRIX_SIDE
    speeds = {}
    for dtype in (torch.bfloat16, torch.float32):
        matrix = torch.ones(side, side, dtype=dtype, device=device)
        speeds[str(dtype).removeprefix("torch.")] = 2 * side**3 / best_s(lambda matrix=matrix: matrix @ matrix)  # type: ignore[misc]  # bound now
    fastest = max(speeds, key=speeds.__getitem__)
    return Machine(bytes_per_s=bytes_per_s, flop_per_s=speeds[fastest], dtype=fastest)


def ceiling(machine: Machine, weights: Weights, batches: tuple[int, ...] = (1, 4, 8)) -> dict[str, Any]:
    """The bounds of one model, for the JSON document."""
    return {
        "bytes_per_s": machine.bytes_per_s,
        "flop_per_s": machine.flop_per_s,
        "flop_dtype": machine.dtype,
        "weight_bytes_read": weights.bytes_read,
        "weights_computed": weights.computed,
        "decode_tps": {str(batch): decode_bound_tps(machine, weights, batch) for batch in batches},
        "prefill_tps": prefill_bound_tps(machine, weights),
    }


def text(name: str, found: dict[str, Any]) -> str:
    """The bounds as lines."""
    decode = ", ".join(f"{tps:,.0f} at {batch}" for batch, tps in found["decode_tps"].items())
    return (
        f"ceiling of {name}: {found['bytes_per_s'] / 1e9:,.1f} GB/s and {found['flop_per_s'] / 1e9:,.0f} GFLOP/s "
        f"({found['flop_dtype']}) measured, {found['weight_bytes_read'] / 2**20:,.0f} MiB read per step:\n"
        f"  at most {decode} decoded tokens/s at so many requests a step; "
        f"{found['prefill_tps']:,.0f} prefilled tokens/s"
    )
