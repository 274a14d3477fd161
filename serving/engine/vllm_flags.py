"""Flags and environment of every vLLM engine of the stack. Imports no vLLM.

The kernel layer is a list of named switches, so that a benchmark can turn each off and measure its effect.
"""

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from routing.records import Record
from serving.artefacts.weights import model_path

GIB = 1024**3


class Speculation(Record):
    """Guess several tokens and check them in one step. ngram and suffix guess from text seen before, without a model.

    suffix needs the package arctic-inference.
    """

    method: Literal["ngram", "suffix", "draft_model"]
    tokens: int = Field(4, ge=1, le=64, description="guessed per step")
    prompt_lookup_max: int = Field(4, ge=1, description="ngram: longest run of tokens looked for in the prompt")
    model: str | None = Field(None, description="draft_model: a smaller model with the same vocabulary")

    @model_validator(mode="after")
    def _model_where_one_is_needed(self) -> Self:
        if (self.model is not None) != (self.method == "draft_model"):
            raise ValueError("speculation.model names the small model of method draft_model, and of no other method")
        return self

    def flag(self) -> str:
        """vLLM's --speculative-config."""
        config: dict[str, str | int] = {"method": self.method, "num_speculative_tokens": self.tokens}
        if self.method == "ngram":
            config["prompt_lookup_max"] = self.prompt_lookup_max
        if self.model is not None:
            config["model"] = model_path(self.model)
        return json.dumps(config)


class KvTransfer(Record):
    """Which of vLLM's connectors moves KV blocks between engines, and which side this engine is on.

    For disaggregated prefill: one engine produces the blocks of a prompt, another one decodes from them.
    """

    connector: str = Field("NixlConnector", pattern=r"^[A-Za-z0-9]+$", description="vLLM's name of it")
    role: Literal["kv_producer", "kv_consumer", "kv_both"] = "kv_both"
    extra: dict[str, str | int | float | bool] = Field(default_factory=dict, description="the connector's own options")

    def flag(self) -> str:
        """vLLM's --kv-transfer-config. A block that does not arrive is computed again instead of failing the answer."""
        return json.dumps(
            {
                "kv_connector": self.connector,
                "kv_role": self.role,
                "kv_load_failure_policy": "recompute",
                "kv_connector_extra_config": self.extra,
            }
        )


class LoraSettings(Record):
    """Low-rank adapters that an engine may load next to its model, while it serves. `policy.adapters` names them.

    On a CPU vLLM does not compile an engine with adapters.
    """

    max_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] = Field(16, description="of the ranks that vLLM has")
    max_active: int = Field(2, ge=1, description="in one step; while a new one is promoted, the old one still answers")
    max_loaded: int = Field(
        4, ge=1, description="in memory, beyond which the least recently used one is dropped and read again"
    )
    folders: tuple[Path, ...] = Field(
        (Path("deploy/artefacts"),), description="adapters come from here or from promotion.registry, nowhere else"
    )

    @model_validator(mode="after")
    def _active_ones_are_loaded(self) -> Self:
        if self.max_loaded < self.max_active:
            raise ValueError(f"max_loaded {self.max_loaded} is below max_active {self.max_active}")
        return self


class VllmSettings(Record):
    """One model on one vLLM engine: how much of the machine it takes and how long its steps may be."""

    model: str = Field(min_length=1, description="name in the model catalogue; also the model name in answers")
    model_path: str | None = Field(None, description="folder of the weights; None: where the catalogue puts `model`")
    max_context_tokens: int = Field(8192, ge=256, description="prompt and answer together")
    max_concurrent_requests: int = Field(16, ge=1, description="per engine; they share every step")
    kv_cache_gib: float | None = Field(None, gt=0, description="None: what vLLM finds free; set it on a CPU")
    block_size_tokens: int | None = Field(None, ge=1, description="of a KV block; None: vLLM's own, 128 on a CPU")
    step_tokens: int | None = Field(
        None, ge=32, description="most tokens of one engine step; a step cannot be aborted, so it bounds every wait"
    )
    dtype: str = "auto"
    cpu_threads: int | None = Field(None, ge=1, description="OpenMP threads of a CPU engine; None: vLLM binds cores")
    gpu_memory_fraction: float | None = Field(
        None, gt=0, le=1, description="of one GPU, for everything of this engine; None: vLLM's own, 0.92"
    )
    # The kernel layer.
    enforce_eager: bool = Field(False, description="no compilation, no CUDA graphs: starts sooner, generates slower")
    prefix_caching: bool = Field(True, description="keep the KV blocks of prompts for the next request that begins so")
    chunked_prefill: bool = Field(True, description="cut long prompts into steps, so that they do not stall the others")
    weights_format: Literal["model", "fp8"] = Field(
        "model", description="fp8: quantise the matrices while loading, for half the memory and more tokens a second"
    )
    kv_cache_format: Literal["auto", "fp8", "fp8_e4m3", "fp8_e5m2"] = Field(
        "auto", description="fp8: twice the tokens in the same memory, at some cost in quality"
    )
    kv_offload_gib: float | None = Field(None, gt=0, description="host memory for KV blocks that the GPU evicts")
    speculation: Speculation | None = None
    tensor_parallel: int = Field(1, ge=1, description="GPUs that share one engine")
    expert_parallel: bool = Field(False, description="mixture of experts: whole experts per GPU instead of slices")
    kv_transfer: KvTransfer | None = None
    lora: LoraSettings | None = Field(None, description="None: this engine takes no adapters")
    tool_parser: str | None = Field(None, description="vLLM's name of the model's tool-call format; None: no tools")
    engine_args: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        description="further vLLM flags by name, e.g. quantization: fp8, over those of this section",
    )

    @model_validator(mode="after")
    def _switches_fit_together(self) -> Self:
        if not self.chunked_prefill and self.step_tokens is not None and self.step_tokens < self.max_context_tokens:
            raise ValueError(
                f"without chunked_prefill a prompt is one step: step_tokens {self.step_tokens} must be at least "
                f"max_context_tokens {self.max_context_tokens}"
            )
        return self

    def flags(self) -> dict[str, str | int | float | bool]:
        """vLLM's command line for this engine. Raises ConfigInvalid when the weights are not there."""
        flags: dict[str, str | int | float | bool | None] = {
            "model": self.model_path or model_path(self.model),
            "served_model_name": self.model,
            "max_model_len": self.max_context_tokens,
            "max_num_seqs": self.max_concurrent_requests,
            "max_num_batched_tokens": self.step_tokens,
            "kv_cache_memory_bytes": None if self.kv_cache_gib is None else int(self.kv_cache_gib * GIB),
            "block_size": self.block_size_tokens,
            "dtype": self.dtype,
            "enforce_eager": self.enforce_eager,
            "gpu_memory_utilization": self.gpu_memory_fraction,
            "enable_prefix_caching": self.prefix_caching,
            "enable_chunked_prefill": None if self.chunked_prefill else False,
            "quantization": None if self.weights_format == "model" else self.weights_format,
            "kv_cache_dtype": None if self.kv_cache_format == "auto" else self.kv_cache_format,
            "kv_offloading_size": self.kv_offload_gib,
            "speculative_config": None if self.speculation is None else self.speculation.flag(),
            "tensor_parallel_size": None if self.tensor_parallel == 1 else self.tensor_parallel,
            "enable_expert_parallel": self.expert_parallel or None,
            "kv_transfer_config": None if self.kv_transfer is None else self.kv_transfer.flag(),
            "enable_lora": None if self.lora is None else True,
            "max_lora_rank": None if self.lora is None else self.lora.max_rank,
            "max_loras": None if self.lora is None else self.lora.max_active,
            "max_cpu_loras": None if self.lora is None else self.lora.max_loaded,
            "enable_prompt_tokens_details": True,
            "enable_auto_tool_choice": True if self.tool_parser else None,
            "tool_call_parser": self.tool_parser,
            "disable_log_stats": True,  # vLLM's own loggers, while the replica's meter stays on
            # "uni" saves a process per engine, and none spins while the other computes. Starting takes 27 instead of 40
            # CPU seconds, a token in batches of 8 takes 18 instead of 27 CPU ms (0.5B on two cores).
            # "mp" for several GPUs: worker processes of this node, also inside a Ray actor.
            "distributed_executor_backend": "uni"
            if self.cpu_threads is not None
            else ("mp" if self.tensor_parallel > 1 else None),
        }
        return {name: value for name, value in flags.items() if value is not None} | self.engine_args

    def environment(self) -> dict[str, str]:
        """Environment of the engine's processes. It must be set before vLLM is imported.

        Loopback only, no usage reports. With cpu_threads, OpenMP's threads are not bound to cores (several engines
        share them) and sleep while they wait instead of spinning. Ray alone would allow num_cpus threads. On CPUs vLLM
        starts a worker process to set OpenMP's environment, unless VLLM_ENABLE_V1_MULTIPROCESSING is 0.
        """
        env = {
            "VLLM_HOST_IP": "127.0.0.1",
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VLLM_LOGGING_LEVEL": "WARNING",
        }
        if self.cpu_threads is not None:
            env |= {
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "OMP_NUM_THREADS": str(self.cpu_threads),
                "OMP_WAIT_POLICY": "PASSIVE",
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            }
        return env
