"""Prefix reuse: equal to the replica benchmark's caches on a trace, tenants apart, and bounded in memory."""

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.replicas.replay import ceiling_hit_rate
from benchmarks.replicas.trace import read_trace
from serving.audit.formats.call import Call
from serving.audit.traffic.prefix_reuse import DistinctKeys, PrefixReuse
from tests.serving.audit.audit_logs import chat, report, write

BLOCK = 512


def trace(seed: int, n: int = 400) -> list[dict[str, Any]]:
    """Conversations that grow, with shared beginnings."""
    draw = random.Random(seed)
    talks: list[list[int]] = [[0]]
    rows = []
    for number in range(n):
        talk = draw.choice(talks) if draw.random() < 0.7 else [0, 10_000 + number]
        talk = [*talk, *range(20_000 + 10 * number, 20_000 + 10 * number + draw.randint(1, 4))]
        talks = [*talks[-30:], talk]
        length = len(talk) * BLOCK + draw.randint(0, BLOCK - 1)
        rows.append({"timestamp": 1000 * number, "input_length": length, "output_length": 50, "hash_ids": talk})
    return rows


@pytest.mark.parametrize("capacity_tokens", [8 * BLOCK, 64 * BLOCK, 500 * BLOCK])
def test_hits_are_those_of_the_replica_benchmark_at_every_size(tmp_path: Path, capacity_tokens: int) -> None:
    log = write(tmp_path / "trace.jsonl", trace(1))
    found = report(log, "--kv-capacity-tokens", str(capacity_tokens))
    requests = read_trace(log, BLOCK)
    for cache in found.caches:
        blocks = None if cache.capacity_tokens is None else cache.capacity_tokens // BLOCK
        # Hits cap at all but one token. The unbounded estimate knows blocks alone, a few tokens more.
        assert cache.hit_ratio == pytest.approx(ceiling_hit_rate(requests, blocks, BLOCK), abs=2e-4)


def test_tenants_share_nothing_although_their_prompts_are_equal(tmp_path: Path) -> None:
    """A tenant finds nothing of another's prefix, so the audit does not promise it."""
    text = "same words for everybody " * 1000
    rows = [chat(n, user=text, tenant=f"t{n % 2}") for n in range(4)]
    apart = report(write(tmp_path / "apart.jsonl", rows))
    # Each tenant's second prompt is found, its first is not.
    assert apart.caches[0].hit_ratio == pytest.approx(0.5, abs=0.05)
    assert {row.tenant: round(row.hit_ratio, 1) for row in apart.tenant_reuse} == {"t0": 0.5, "t1": 0.5}
    together = report(write(tmp_path / "one.jsonl", [row | {"tenant": "t"} for row in rows]))
    assert together.caches[0].hit_ratio == pytest.approx(0.75, abs=0.05)


def test_next_turn_of_a_conversation_finds_the_turns_before() -> None:
    reuse = PrefixReuse([1_000_000], 16)
    messages: list[dict[str, str]] = []
    for turn in range(4):
        messages.append({"role": "user", "content": f"turn {turn} " + "words " * 200})
        raw = msgspec.json.encode(messages)
        reuse.add(Call("m", len(raw) // 4, 10, prompt=raw))
    sizes = [1, 2, 3, 4]
    assert reuse.hit_ratio() == pytest.approx((sum(sizes) - 4) / sum(sizes), abs=0.03)


def test_small_cache_forgets(tmp_path: Path) -> None:
    texts = ["a" * 4000, "b" * 4000]
    rows = [chat(n, user=texts[n % 2], usage={"prompt_tokens": 1000}) for n in range(6)]
    log = write(tmp_path / "log.jsonl", rows)
    # Four times 300 tokens hold both prompts, 300 tokens not even one.
    small, four, unbounded = report(log, "--kv-capacity-tokens", "600", "--block-size-tokens", "16").caches
    assert small.hit_ratio == pytest.approx(0.0)
    assert four.hit_ratio == pytest.approx(unbounded.hit_ratio, abs=0.02) == pytest.approx(4 / 6, abs=0.02)


def test_log_without_prompts_says_so_and_counts_none(tmp_path: Path) -> None:
    rows = [{"request": {"model": "m"}, "response": {"usage": {"prompt_tokens": 5, "completion_tokens": 1}}}]
    found = report(write(tmp_path / "log.jsonl", rows))
    assert found.caches == ()
    assert found.outlook.hit_ratio is None
    assert any("no prompts" in sentence for sentence in found.outlook.unknown)


@given(st.lists(st.integers(1, 2**64 - 1), max_size=300))
def test_few_distinct_keys_are_counted_exactly(keys: list[int]) -> None:
    distinct = DistinctKeys(capacity=512)
    distinct.add(keys)
    distinct.add(keys)
    assert distinct.count() == len(set(keys))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_distinct_keys_are_estimated_in_bounded_memory(seed: int) -> None:
    draw, distinct = random.Random(seed), DistinctKeys(capacity=4096)
    for _ in range(200):
        keys = [draw.getrandbits(64) or 1 for _ in range(500)]
        distinct.add(keys)
        distinct.add(keys[:100])
    assert distinct.count() == pytest.approx(100_000, rel=4 / 4096**0.5)


def test_trace_with_too_few_block_ids_is_a_bad_row(tmp_path: Path) -> None:
    rows = trace(1, n=3)
    broken = {"timestamp": 1, "input_length": 5 * BLOCK, "output_length": 1, "hash_ids": [1, 2]}
    found = report(write(tmp_path / "trace.jsonl", [*rows, json.dumps(broken)]))
    assert found.bad_rows["by_field"] == {"hash_ids": 1}


@given(st.integers(1, 40))
def test_more_replicas_never_find_less(replicas: int) -> None:
    reuse = PrefixReuse([10_000, 40_000], 512)
    for row in trace(3, n=150):
        reuse.add(Call("m", row["input_length"], 1, block_ids=row["hash_ids"]))
    assert reuse.pooled_hit_ratio(1) == reuse.hit_ratio()
    assert reuse.pooled_hit_ratio(replicas) <= reuse.pooled_hit_ratio(replicas + 1) <= reuse.hit_ratio(1)
