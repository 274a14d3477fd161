"""What every vLLM engine of the stack is told: its flags and its environment. Imports no vLLM."""

from pydantic import Field

from routing.schema import Record
from serving.weights import model_path

GIB = 1024**3


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
    enforce_eager: bool = Field(False, description="no compilation: starts sooner, generates slower")
    tool_parser: str | None = Field(None, description="vLLM's name of the model's tool-call format; None: no tools")
    engine_args: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="further vLLM flags by name, e.g. quantization: fp8; they win"
    )

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
            "enable_prefix_caching": True,
            "enable_prompt_tokens_details": True,
            "enable_auto_tool_choice": True if self.tool_parser else None,
            "tool_call_parser": self.tool_parser,
            "disable_log_stats": True,  # vLLM's own loggers; the replica's meter stays on
            # One process less per engine, and none that spins while the other computes: 27 instead of 40 CPU seconds
            # to start, 18 instead of 27 CPU ms per token in batches of 8 (0.5B on two cores).
            "distributed_executor_backend": "uni" if self.cpu_threads is not None else None,
        }
        return {name: value for name, value in flags.items() if value is not None} | self.engine_args

    def environment(self) -> dict[str, str]:
        """Environment of the engine's processes; it must be set before vLLM is imported.

        Loopback only, no usage reports. With cpu_threads, OpenMP's threads are not bound to cores (several engines
        share them) and sleep while they wait instead of spinning; Ray alone would allow num_cpus threads. vLLM insists
        on a worker process on CPUs, to set OpenMP's environment there, unless VLLM_ENABLE_V1_MULTIPROCESSING is 0.
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
