"""Keeps the load of a vLLM engine as its scheduler last reported it."""

from dataclasses import dataclass
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase
from vllm.v1.metrics.stats import IterationStats, SchedulerStats


@dataclass(slots=True)
class Load:
    """What vLLM's scheduler last reported, and totals since the start. kv_usage_ratio: KV blocks in use, 0..1."""

    running: int = 0
    waiting: int = 0
    kv_usage_ratio: float = 0.0
    generated_tokens: int = 0
    prompt_tokens_queried: int = 0
    prompt_tokens_cached: int = 0


class LoadMeter(StatLoggerBase):  # type: ignore[misc]  # vLLM is untyped here
    """Keeps the last scheduler report, so that asking for the load costs nothing."""

    def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
        self.load = Load()

    def record(
        self,
        scheduler_stats: SchedulerStats | None,
        iteration_stats: IterationStats | None,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        """Called by vLLM after every engine step, also after the one that drops an aborted request."""
        if scheduler_stats is not None:
            self.load.running = scheduler_stats.num_running_reqs
            self.load.waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self.load.kv_usage_ratio = scheduler_stats.kv_cache_usage
            self.load.prompt_tokens_queried += scheduler_stats.prefix_cache_stats.queries
            self.load.prompt_tokens_cached += scheduler_stats.prefix_cache_stats.hits
        if iteration_stats is not None:
            self.load.generated_tokens += iteration_stats.num_generation_tokens

    def log_engine_initialized(self) -> None:
        """Does nothing. The interface asks for it."""
