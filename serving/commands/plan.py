"""`plan`: compute how much memory each engine of a profile takes and how many requests fit, before renting.

Weights and KV cache follow from the model's config.json and agree with what vLLM allocates. Activations, CUDA graphs
and the driver's context are estimates and marked as such. vLLM measures them when it starts.
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import Field, ValidationError

from routing.model_shape import BF16_BYTES, FP8_BYTES, ModelShape
from routing.records import Record
from serving.artefacts.weights import ROOT, cache_dir
from serving.config import HardwareConfig, StackConfig, load_config
from serving.engine.config import EngineConfig
from serving.engine.vllm_flags import GIB, LoraSettings, VllmSettings
from serving.errors import ConfigInvalid, DoesNotFit

CATALOG = ROOT / "models" / "weights" / "catalog.yaml"
LENGTHS_TOKENS = (1024, 4096, 16384)
# vLLM's own: the share of a GPU, tokens of a step on GPUs of 80 GB and more (2,048 on smaller ones), KV block sizes.
GPU_MEMORY_FRACTION = 0.92
GPU_BLOCK_TOKENS = 16
CPU_BLOCK_TOKENS = 128
STEP_TOKENS = 8192
# Estimates. A CUDA context with cuBLAS and NCCL takes 0.5 to 1 GiB, captured graphs of a 7B model about 0.5.
RUNTIME_GIB = 0.75
CUDA_GRAPHS_GIB = 0.5
# What config.json does not say of an architecture. Qwen2 has biases on q, k and v. Qwen3 normalises q and k.
ARCHITECTURES: dict[str, dict[str, bool]] = {
    "LlamaForCausalLM": {},
    "MistralForCausalLM": {},
    "MixtralForCausalLM": {},
    "Qwen2ForCausalLM": {"qkv_bias": True},
    "Qwen3ForCausalLM": {"qk_norm": True},
    "Qwen3MoeForCausalLM": {"qk_norm": True},
}


class EngineBudget(Record):
    """What one replica of an engine takes of each of its GPUs, or of the host's memory. GiB unless named otherwise."""

    name: str
    model: str
    replicas: int = Field(ge=0, description="at most")
    gpus: float = Field(ge=0, description="per replica; 0: a CPU engine")
    weights_gib: float
    adapters_gib: float = Field(description="places for LoRA adapters, empty or not")
    kv_gib: float = Field(description="negative: that much is missing")
    activations_gib: float
    runtime_gib: float
    allowed_gib: float | None = Field(description="its share of a GPU; None on a CPU")
    block_tokens: int
    kv_tokens: int = Field(description="whole blocks")
    max_context_tokens: int
    max_concurrent_requests: int

    @property
    def total_gib(self) -> float:
        """All of it together, GiB."""
        return self.weights_gib + self.adapters_gib + self.kv_gib + self.activations_gib + self.runtime_gib

    def concurrency(self, length_tokens: int) -> int | None:
        """Requests of that length, prompt and answer, that a replica runs at once. None: longer than its context."""
        if length_tokens > self.max_context_tokens:
            return None
        blocks_each = -(-length_tokens // self.block_tokens)
        return min(self.max_concurrent_requests, self.kv_tokens // self.block_tokens // blocks_each)


class Plan(NamedTuple):
    """A profile's engines, and the machine that they were compared with."""

    engines: tuple[EngineBudget, ...]
    hardware: HardwareConfig | None


def plan(config: StackConfig) -> Plan:
    """Work out every engine of the profile. Raises DoesNotFit naming each reason, ConfigInvalid for unknown models."""
    sections: dict[str, VllmSettings | None] = {
        "router": config.router,
        "tier1": config.tier1,
        "standin": config.standin,
    }
    engines = tuple(
        engine_budget(name, shape_of(section), section, config.hardware)
        for name, section in sections.items()
        if section is not None and not (isinstance(section, EngineConfig) and section.engine == "noop")
    )
    if reasons := [*misfits(engines, config.hardware), *shared_gpu_misfits(config)]:
        raise DoesNotFit("the profile does not fit:\n" + "\n".join(f"  {reason}" for reason in reasons))
    return Plan(engines, config.hardware)


def engine_budget(name: str, shape: ModelShape, section: VllmSettings, hardware: HardwareConfig | None) -> EngineBudget:
    """One engine's memory, computed from profile and model shape alone. Raises ConfigInvalid when a size is missing."""
    gpus = section.num_gpus if isinstance(section, EngineConfig) else 0
    tensor_parallel = section.tensor_parallel
    weights = shape.weights_bytes(FP8_BYTES if section.weights_format == "fp8" else BF16_BYTES) / tensor_parallel / GIB
    kv_value_bytes = BF16_BYTES if section.kv_cache_format == "auto" else FP8_BYTES
    token_bytes = shape.kv_bytes_per_token(kv_value_bytes, tensor_parallel)
    adapters = 0.0 if section.lora is None else adapter_bytes(shape, section.lora, on_gpu=gpus > 0) / GIB
    activations = runtime = 0.0
    allowed: float | None = None
    if gpus:
        if hardware is None or hardware.gpu_memory_gib is None:
            raise ConfigInvalid(f"{name} runs on a GPU: say in hardware.gpu_memory_gib how much memory one has")
        allowed = hardware.gpu_memory_gib * (section.gpu_memory_fraction or GPU_MEMORY_FRACTION)
        activations = activation_bytes(shape, section) / GIB
        runtime = RUNTIME_GIB + (0 if section.enforce_eager else CUDA_GRAPHS_GIB)
    if section.kv_cache_gib is not None:
        kv = section.kv_cache_gib
    elif allowed is not None:
        kv = allowed - weights - adapters - activations - runtime
    else:
        raise ConfigInvalid(f"{name} runs on a CPU: set {name}.kv_cache_gib, an engine there cannot tell what is free")
    block_tokens = section.block_size_tokens or (GPU_BLOCK_TOKENS if gpus else CPU_BLOCK_TOKENS)
    blocks = max(0, int(kv * GIB / (token_bytes * block_tokens)))
    return EngineBudget(
        name=name,
        model=section.model,
        replicas=section.most_replicas if isinstance(section, EngineConfig) else 1,
        gpus=gpus,
        weights_gib=weights,
        adapters_gib=adapters,
        kv_gib=kv,
        activations_gib=activations,
        runtime_gib=runtime,
        allowed_gib=allowed,
        block_tokens=block_tokens,
        kv_tokens=blocks * block_tokens,
        max_context_tokens=section.max_context_tokens,
        max_concurrent_requests=section.max_concurrent_requests,
    )


def activation_bytes(shape: ModelShape, section: VllmSettings) -> float:
    """Bytes of the largest tensors alive in one step, per GPU. An estimate.

    Each token of the step has its gate and up projections and about four hidden states. Each running request has two
    rows of float32 logits over the whole vocabulary, for the sampler.
    """
    step_tokens = section.step_tokens or STEP_TOKENS
    per_token = (2 * shape.intermediate / section.tensor_parallel + 4 * shape.hidden) * BF16_BYTES
    return step_tokens * per_token + section.max_concurrent_requests * 2 * shape.vocabulary * 4


def adapter_bytes(shape: ModelShape, lora: LoraSettings, on_gpu: bool) -> int:
    """Bytes that vLLM sets aside for adapters of the largest rank: active ones, and on a CPU the loaded ones too.

    With a GPU the loaded ones lie in host memory. Tensor parallelism is not counted, because every GPU keeps one of an
    adapter's two matrices whole.
    """
    places = lora.max_active + (0 if on_gpu else lora.max_loaded)
    return places * shape.lora_bytes(lora.max_rank)


def misfits(engines: tuple[EngineBudget, ...], hardware: HardwareConfig | None) -> list[str]:
    """Why these engines cannot run on that hardware, one line each. Empty when they can."""
    reasons = []
    for engine in engines:
        if engine.allowed_gib is not None and (engine.kv_gib <= 0 or engine.total_gib > engine.allowed_gib):
            without_kv = engine.total_gib - engine.kv_gib
            asked = f" and {engine.kv_gib:.1f} GiB of KV cache" if engine.kv_gib > 0 else ""
            reasons.append(
                f"{engine.name}: weights, activations and runtime take {without_kv:.1f} GiB{asked}, but its share of a "
                f"GPU is {engine.allowed_gib:.1f} GiB: choose a smaller model, weights_format: fp8, more "
                "tensor_parallel, a larger gpu_memory_fraction or a smaller kv_cache_gib"
            )
        elif engine.kv_tokens < engine.max_context_tokens:
            reasons.append(
                f"{engine.name}: its KV cache holds {engine.kv_tokens} tokens, fewer than one request of "
                f"max_context_tokens {engine.max_context_tokens}: lower that, or give it more memory"
            )
    if hardware is None:
        return reasons
    if (wanted := sum(engine.gpus * engine.replicas for engine in engines)) > hardware.gpus + 1e-9:
        reasons.append(f"hardware: at their largest the engines need {wanted:g} GPUs, hardware.gpus is {hardware.gpus}")
    on_host = sum((e.weights_gib + e.adapters_gib + e.kv_gib) * e.replicas for e in engines if not e.gpus)
    if hardware.memory_gib is not None and on_host > hardware.memory_gib:
        reasons.append(
            f"hardware: weights and KV caches on CPUs take {on_host:.1f} GiB of {hardware.memory_gib:g} GiB of memory"
        )
    return reasons


def shared_gpu_misfits(config: StackConfig) -> list[str]:
    """Why engines that share a GPU would take more of it than Ray gave them, one line each. Empty when none does."""
    reasons = []
    for name, engine in (("router", config.router), ("tier1", config.tier1)):
        if engine is None or not 0 < engine.num_gpus < 1:
            continue
        if engine.gpu_memory_fraction is None or engine.gpu_memory_fraction > engine.num_gpus:
            reasons.append(
                f"{name}: num_gpus {engine.num_gpus:g} is a part of a GPU: set gpu_memory_fraction to at most that"
            )
        if engine.kv_cache_gib is None:
            reasons.append(
                f"{name}: shares a GPU: set kv_cache_gib; vLLM would take a neighbour that starts at the same time for "
                "memory of its own"
            )
    return reasons


def shape_of(section: VllmSettings) -> ModelShape:
    """The model's shape: from its folder when it is on this machine, else from the catalogue.

    Raises ConfigInvalid when neither knows it.
    """
    for folder in (section.model_path, str(cache_dir() / "models" / section.model), section.model):
        if folder is not None and (path := Path(folder) / "config.json").is_file():
            return shape_from_config(json.loads(path.read_text("utf-8")), str(path))
    for entry in yaml.safe_load(CATALOG.read_text("utf-8"))["models"]:
        if section.model in (entry["name"], entry["origin"]) and "shape" in entry:
            return ModelShape.model_validate(entry["shape"])
    raise ConfigInvalid(
        f"the shape of {section.model!r} is not known: fetch the model, name its folder in model_path, "
        "or add its shape to models/weights/catalog.yaml"
    )


def shape_from_config(config: dict[str, Any], path: str) -> ModelShape:
    """A ModelShape of a Hugging Face config.json. Raises ConfigInvalid for an architecture this file does not know."""
    name = (config.get("architectures") or ["none"])[0]
    if name not in ARCHITECTURES:
        raise ConfigInvalid(f"{path}: architecture {name!r} is not one of {', '.join(ARCHITECTURES)}")
    experts = config.get("num_experts") or config.get("num_local_experts") or 0
    heads = config["num_attention_heads"]
    try:
        return ModelShape(
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            intermediate=config.get("moe_intermediate_size") or config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or config["hidden_size"] // heads,
            vocabulary=config["vocab_size"],
            tied_embeddings=config.get("tie_word_embeddings", False),
            experts=experts,
            **ARCHITECTURES[name],
        )
    except (KeyError, ValidationError) as error:
        raise ConfigInvalid(f"{path} is not the config.json of a {name}: {error}") from error


def plan_lines(plan: Plan, lengths_tokens: tuple[int, ...] = LENGTHS_TOKENS) -> str:
    """The plan as text, one column per engine."""
    engines, hardware = plan
    rows: list[tuple[str, list[str]]] = [
        ("", [engine.name for engine in engines]),
        ("model", [engine.model for engine in engines]),
        ("replicas, at most", [str(engine.replicas) for engine in engines]),
        ("GPUs per replica", [f"{engine.gpus:g}" for engine in engines]),
        ("weights, GiB", [f"{engine.weights_gib:.2f}" for engine in engines]),
        *adapter_rows(engines),
        ("KV cache, GiB", [f"{engine.kv_gib:.2f}" for engine in engines]),
        ("activations, GiB (estimate)", [on_gpu(engine, engine.activations_gib) for engine in engines]),
        ("runtime, GiB (estimate)", [on_gpu(engine, engine.runtime_gib) for engine in engines]),
        ("together, GiB", [f"{engine.total_gib:.2f}" for engine in engines]),
        ("its share of a GPU, GiB", ["-" if e.allowed_gib is None else f"{e.allowed_gib:.2f}" for e in engines]),
        ("KV tokens", [f"{engine.kv_tokens:,}" for engine in engines]),
    ]
    for length in sorted({*lengths_tokens, *(engine.max_context_tokens for engine in engines)}):
        at_once = [engine.concurrency(length) for engine in engines]
        rows.append((f"at once, {length:,} tokens each", ["-" if n is None else str(n) for n in at_once]))
    if not engines:
        return "no engine of this profile holds weights\n"
    widths = [max(len(cells[i]) for _, cells in rows) for i in range(len(engines))]
    lines = [
        f"{label:<28}" + "".join(f"  {cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for label, cells in rows
    ]
    if hardware is not None:
        gpu = f", {hardware.gpus} GPUs of {hardware.gpu_memory_gib:g} GiB" if hardware.gpu_memory_gib else ""
        lines.append(f"\nworked out for {hardware.name}{gpu}")
    lines.append("per replica, and on each of its GPUs; requests at once also obey max_concurrent_requests")
    return "\n".join(lines) + "\n"


def adapter_rows(engines: tuple[EngineBudget, ...]) -> list[tuple[str, list[str]]]:
    """The row of the adapters when an engine takes any, else nothing."""
    cells = [f"{engine.adapters_gib:.2f}" if engine.adapters_gib else "-" for engine in engines]
    return [("adapters, GiB", cells)] if any(engine.adapters_gib for engine in engines) else []


def on_gpu(engine: EngineBudget, gib: float) -> str:
    """The text of an estimate that is made for GPUs only."""
    return f"{gib:.2f}" if engine.gpus else "-"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The profile, and the lengths of request to count for."""
    parser.add_argument("config", type=Path, help="the profile to work out")
    parser.add_argument(
        "--lengths",
        type=token_counts,
        default=LENGTHS_TOKENS,
        metavar="N,N",
        help="request lengths, prompt and answer together, to count concurrency for "
        f"({','.join(map(str, LENGTHS_TOKENS))})",
    )


def token_counts(text: str) -> tuple[int, ...]:
    """The value of --lengths. Raises ValueError for one below 1."""
    lengths = tuple(int(part) for part in text.split(","))
    if min(lengths) < 1:
        raise ValueError("a length is at least 1")
    return lengths


def run(args: argparse.Namespace) -> int:
    """Print the memory of every engine. Raises DoesNotFit, which names what is too large."""
    print(plan_lines(plan(load_config(args.config)), args.lengths), end="")
    return 0
