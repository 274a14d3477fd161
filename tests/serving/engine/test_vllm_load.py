"""What a replica says of its engine's load."""

from vllm.v1.metrics.stats import IterationStats, PrefixCacheStats, SchedulerStats

from serving.engine.vllm_load import LoadMeter


def test_load_is_the_schedulers_last_word() -> None:
    meter = LoadMeter(None)
    cache = PrefixCacheStats(requests=1, queries=100, hits=64)
    iteration = IterationStats()
    iteration.num_generation_tokens = 3
    meter.record(SchedulerStats(num_running_reqs=2, num_waiting_reqs=1, prefix_cache_stats=cache), iteration)
    meter.record(SchedulerStats(num_running_reqs=0, kv_cache_usage=0.25), None)
    load = meter.load
    assert (load.running, load.waiting, load.kv_usage_ratio, load.generated_tokens) == (0, 0, 0.25, 3)
    assert (load.prompt_tokens_queried, load.prompt_tokens_cached) == (100, 64)
