"""benchmarks/replicas/replay.py: the replay's model of a tier is what its docstring says, for every policy alike."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.replicas.aims import Aim, shared_prompt
from benchmarks.replicas.policies import POLICIES
from benchmarks.replicas.replay import EngineCache, Setup, ceiling_hit_rate, decisions, simulate
from benchmarks.replicas.trace import TraceRequest, read_trace

SETUP = Setup(replicas=2, capacity_tokens=40_000, block_size_tokens=1000, prefill_tokens_per_s=10_000.0)


def request(at_s: float, tokens: int, keys: tuple[int, ...] = (), output: int = 10, session: int = 0) -> TraceRequest:
    return TraceRequest(at_s, tokens, output, keys, session)


def write_trace(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return path


def conversation(turns: int = 70) -> list[dict[str, object]]:
    """Seven conversations of ten turns, each turn repeating the last and adding a block."""
    return [
        {
            "timestamp": 400 * n,
            "input_length": 1024 + 512 * (n // 7) + 100,
            "output_length": 20,
            "hash_ids": [0, *(100 * (n % 7) + block + 1 for block in range(n // 7 + 2))],
        }
        for n in range(turns)
    ]


# --- trace


def test_only_full_blocks_count_and_speed_shortens_the_gaps(tmp_path: Path) -> None:
    requests = read_trace(write_trace(tmp_path / "t.jsonl.gz", conversation()), speed=2.0)
    assert [len(r.keys) for r in requests[:8]] == [2] * 7 + [3]
    assert requests[1].at_s == pytest.approx(0.2)
    assert requests[0].keys[0] == requests[1].keys[0]
    assert requests[0].keys[1] != requests[1].keys[1]


def test_turns_of_one_conversation_are_one_session(tmp_path: Path) -> None:
    requests = read_trace(write_trace(tmp_path / "t.jsonl.gz", conversation()))
    assert [r.session for r in requests] == [n % 7 for n in range(70)]


@pytest.mark.parametrize(
    "line",
    ["not json", '{"timestamp": 0}', '{"timestamp": 0, "input_length": 5000, "output_length": 1, "hash_ids": [1]}'],
)
def test_a_line_that_is_no_request_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}\n' + line)
    with pytest.raises(ValueError, match="line 2"):
        read_trace(path)


# --- model


def test_prefill_is_sequential_and_cached_blocks_are_free() -> None:
    requests = [request(0.0, 10_500, tuple(range(1, 11))), request(0.0, 10_500, tuple(range(1, 11)))]
    row = simulate(requests, "kv_aware", replace(SETUP, replicas=1))
    # The first computes 10,500 tokens in 1.05 s; the second waits for it and computes 500 more.
    assert row.ttft_mean_s == pytest.approx((1.05 + 1.10) / 2)
    assert row.hit_rate == pytest.approx(10_000 / 21_000)
    assert row.imbalance == 1.0


def test_engine_cache_evicts_the_least_recently_used_and_the_end_of_a_prompt_first() -> None:
    cache = EngineCache(4)
    cache.use([1, 2, 3])
    cache.use([7, 8])
    assert cache.use([1, 2, 3]) == 2
    assert EngineCache(None).use([1]) == 0


def test_no_policy_hits_more_than_the_infinite_cache(tmp_path: Path) -> None:
    requests = read_trace(write_trace(tmp_path / "t.jsonl.gz", conversation()))
    infinite = ceiling_hit_rate(requests, None, 512)
    for policy in POLICIES:
        row = simulate(requests, policy, Setup(replicas=3))
        assert 0 <= row.hit_rate <= infinite
        assert row.ttft_p50_s <= row.ttft_p90_s
        assert 1 / 3 <= row.largest_share <= 1


def test_replay_is_the_same_every_time(tmp_path: Path) -> None:
    requests = read_trace(write_trace(tmp_path / "t.jsonl.gz", conversation()))
    for policy in POLICIES:
        assert simulate(requests, policy, Setup(ingress=2)) == simulate(requests, policy, Setup(ingress=2))


def test_round_robin_takes_turns_and_least_requests_evens_out() -> None:
    requests = [request(n * 1.0, 1000, output=10_000, session=n) for n in range(40)]
    for policy in ("round_robin", "least_requests"):
        assert simulate(requests, policy, SETUP).largest_share == 0.5


def test_session_hash_sticks_to_one_replica() -> None:
    requests = [request(n * 1.0, 1000, session=3) for n in range(40)]
    assert simulate(requests, "session_hash", SETUP).largest_share == 1.0


@pytest.mark.parametrize("policy", ["kv_aware", "cache_aware", "ray_prefix", "llm_d", "dynamo"])
def test_prefix_policies_follow_the_prefix_on_idle_replicas(tmp_path: Path, policy: str) -> None:
    requests = read_trace(write_trace(tmp_path / "t.jsonl.gz", conversation()))
    row = simulate(requests, policy, Setup(replicas=3))
    assert row.hit_rate > 1.1 * simulate(requests, "round_robin", Setup(replicas=3)).hit_rate


# --- several ingress processes


def test_requests_are_dealt_in_turn_and_tokenized_one_by_one() -> None:
    requests = [request(0.0, 1000), request(0.0, 500), request(0.0, 1000)]
    setup = replace(SETUP, ingress=2, tokenize_tokens_per_s=1000.0)
    assert decisions(requests, setup) == [(0.5, 1, 1), (1.0, 0, 0), (2.0, 2, 0)]


def test_an_ingress_knows_what_another_decided_only_after_the_delay() -> None:
    keys = tuple(range(1, 10))
    both = [request(0.0, 9500, keys), request(0.1, 9500, keys)]
    for delay_s, hits in ((0.05, 9000), (0.15, 0)):
        row = simulate(both, "kv_aware", replace(SETUP, ingress=2, news_delay_s=delay_s, seed=1))
        told = row.hit_rate * 19_000
        assert told in (pytest.approx(hits), pytest.approx(9000))
        if hits:
            assert told == pytest.approx(hits)


# --- what it is for


def test_one_shared_prompt_spreads_over_every_replica() -> None:
    requests = shared_prompt(2048, rate_rps=5.0, seed=0, requests=600)
    assert simulate(requests, "kv_aware", Setup(replicas=4)).largest_share <= 0.33


def test_aims_know_which_side_is_good() -> None:
    assert Aim("x", 0.5, at_most=0.5).met
    assert not Aim("x", 0.51, at_most=0.5).met
    assert Aim("x", 0.5, at_least=0.5).met
    assert not Aim("x", 0.49, at_least=0.5).met


def test_last_line_is_json_with_every_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_trace(tmp_path / "t.jsonl.gz", conversation())
    assert main(["replicas", "--trace", str(path), "--replicas", "2", "--plot", str(tmp_path / "plot.svg")]) == 0
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert [row["policy"] for row in rows] == list(POLICIES)
    named = {"policy", "replicas", "ingress", "hit_rate", "pooled_hit_share", "ttft_mean_s", "ttft_p90_s", "imbalance"}
    assert all(named <= set(row) for row in rows)
    assert (tmp_path / "plot.svg").stat().st_size > 1000


# --- host memory


def evicted_and_asked_again() -> list[TraceRequest]:
    """A prompt of two blocks, enough others to push it out of four, and the prompt again."""
    prompts = [(1, 2), (3, 4), (5, 6), (7, 8), (1, 2)]
    return [request(10.0 * n, 2500, keys) for n, keys in enumerate(prompts)]


def test_prefix_in_host_memory_is_loaded_instead_of_computed() -> None:
    alone = replace(SETUP, replicas=1, capacity_tokens=4000)
    cold = simulate(evicted_and_asked_again(), "kv_aware", alone)
    warm = simulate(evicted_and_asked_again(), "kv_aware", replace(alone, host_tokens=100_000))
    assert (cold.hit_rate, cold.host_hit_rate) == (0, 0)
    assert (warm.hit_rate, warm.host_hit_rate) == (0, pytest.approx(2000 / 12_500))
    # 2,000 tokens of one of five prompts come at 200,000 instead of 10,000 tokens a second.
    assert cold.ttft_mean_s - warm.ttft_mean_s == pytest.approx((0.2 - 0.01) / 5)


@pytest.mark.parametrize("others", range(6, 12))
def test_replica_with_the_prefix_in_host_memory_is_preferred(others: int) -> None:
    """Both GPUs have forgotten the prompt, one host has not; who computed what before makes no difference."""
    requests = [request(0.0, 2500, (1, 2))]
    requests += [request(10.0 + 10 * n, 2500, (100 + 2 * n, 101 + 2 * n)) for n in range(others)]
    requests += [request(300.0, 2500, (1, 2))]
    shape = replace(SETUP, capacity_tokens=4000, host_tokens=100_000)
    assert simulate(requests, "kv_aware", shape).host_hit_rate == pytest.approx(2000 / (2500 * len(requests)))
