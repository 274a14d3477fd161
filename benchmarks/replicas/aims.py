"""The aims of replica routing in one table: quality on a trace, size and speed of the index, time of a decision."""

import random
import time
import tracemalloc
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from benchmarks.replicas.replay import Row, Setup, ceiling_hit_rate, simulate
from benchmarks.replicas.trace import TraceRequest
from routing.replicas.kv_blocks import BlockIndex, ExactBlocks, MirrorBlocks, block_keys, root_key
from routing.replicas.load import PrefillRate, ReplicaLoad
from routing.replicas.rank import Prompt, ReplicaConfig, rank_replicas

BLOCK_TOKENS = 16
PROMPT_TOKENS = 4096
TOKENIZE_TOKENS_PER_S = 1e6


@dataclass(frozen=True, slots=True)
class Aim:
    """One measured figure and the side of the target it should be on."""

    name: str
    measured: float
    at_most: float | None = None
    at_least: float | None = None

    @property
    def met(self) -> bool:
        """On the right side, the target itself included."""
        return (self.at_most is None or self.measured <= self.at_most) and (
            self.at_least is None or self.measured >= self.at_least
        )


def measure_aims(requests: Sequence[TraceRequest], setup: Setup) -> list[Aim]:
    """Every aim. The replays take most of the time."""
    return [*trace_aims(requests, setup), *spread_aims(setup), *index_aims(setup.seed), *decision_aims(setup.seed)]


def print_aims(aims: Sequence[Aim]) -> None:
    """The table."""
    print(f"{'aim':<58}{'target':>12}{'measured':>14}  met")
    for aim in aims:
        target = f"<= {aim.at_most:,g}" if aim.at_most is not None else f">= {aim.at_least:,g}"
        print(f"{aim.name:<58}{target:>12}{aim.measured:>14,.4g}  {'yes' if aim.met else 'NO'}")


def trace_aims(requests: Sequence[TraceRequest], setup: Setup) -> list[Aim]:
    """Hits, TTFT and balance on the trace, with one gateway process and with four."""
    aims: list[Aim] = []
    rows: dict[tuple[str, int, int], Row] = {}
    wanted = [("kv_aware", 4, 1), ("round_robin", 4, 1), ("dynamo", 4, 1), ("kv_aware", 8, 1)]
    wanted += [("kv_aware", 4, 4), ("kv_aware", 8, 4)]
    for policy, n, ingress in tqdm(wanted, desc="aims on the trace", unit="replay"):
        rate = None if ingress == 1 else TOKENIZE_TOKENS_PER_S
        shape = replace(setup, replicas=n, ingress=ingress, tokenize_tokens_per_s=rate)
        pooled = ceiling_hit_rate(requests, n * shape.capacity_blocks, shape.block_size_tokens)
        rows[policy, n, ingress] = simulate(requests, policy, shape, pooled)
    ours = rows["kv_aware", 4, 1]
    for n in (4, 8):
        row = rows["kv_aware", n, 1]
        if row.pooled_hit_share is not None:
            aims.append(Aim(f"hits / pooled LRU's, {n} replicas", row.pooled_hit_share, at_least=0.97))
        aims.append(Aim(f"largest replica's computed tokens / mean, {n} replicas", row.imbalance, at_most=1.10))
    for policy, limit in (("round_robin", 0.65), ("dynamo", 0.80)):
        ratio = ours.ttft_mean_s / rows[policy, 4, 1].ttft_mean_s
        aims.append(Aim(f"mean TTFT / {policy}'s, 4 replicas", ratio, at_most=limit))
    for n in (4, 8):
        one, four = rows["kv_aware", n, 1], rows["kv_aware", n, 4]
        if one.hit_rate:
            aims.append(Aim(f"hits, 4 ingress / 1, {n} replicas", four.hit_rate / one.hit_rate, at_least=0.98))
        aims.append(Aim(f"TTFT p90, 4 ingress / 1, {n} replicas", four.ttft_p90_s / one.ttft_p90_s, at_most=1.15))
    return aims


def shared_prompt(tokens: int, rate_rps: float, seed: int, requests: int = 2000) -> list[TraceRequest]:
    """Requests that share a system prompt of `tokens` and bring 200 tokens of their own. Poisson arrivals."""
    rng = random.Random(seed)
    keys = tuple(block_keys(range(tokens // 512), 1, root_key("shared")))
    at_s, made = 0.0, []
    for number in range(requests):
        at_s += rng.expovariate(rate_rps)
        made.append(TraceRequest(at_s, tokens + 200, 100, keys, session=number))
    return made


def spread_aims(setup: Setup) -> list[Aim]:
    """The largest share any replica gets of requests with one system prompt, from a trickle to a flood."""
    shape = replace(setup, replicas=4, ingress=1, tokenize_tokens_per_s=None)
    cases = [(tokens, rate) for tokens in (512, 2048, 8192, 32768) for rate in (0.5, 5.0, 50.0)]
    shares = {
        case: simulate(shared_prompt(*case, seed=setup.seed), "kv_aware", shape).largest_share
        for case in tqdm(cases, desc="shared prompt", unit="replay")
    }
    typical = shares[2048, 5.0]
    return [
        Aim("one shared prompt of 2k tokens at 5 rps: largest share of 4", typical, at_most=0.33),
        Aim("likewise, worst of 0.5k-32k tokens at 0.5-50 rps", max(shares.values()), at_most=0.33),
    ]


def index_aims(seed: int, replicas: int = 8, blocks: int = 20_000) -> list[Aim]:
    """Bytes a block (traced allocations, index and feeder together) and block events a second of one core."""
    rng = random.Random(seed)
    tokens = [rng.randrange(150_000) for _ in range(PROMPT_TOKENS)]
    run = PROMPT_TOKENS // BLOCK_TOKENS
    aims = []
    for mode in ("EXACT", "MIRROR"):
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        index = BlockIndex()
        held = (
            _fill_exact(index, replicas, blocks, tokens) if mode == "EXACT" else _fill_mirror(index, replicas, blocks)
        )
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        aims.append(Aim(f"bytes a block and replica, {mode}", (after - before) / sum(map(len, held)), at_most=100))
        del held
    index = BlockIndex()
    exact = ExactBlocks(index, "replica", 65_536)
    batches = [[rng.getrandbits(256).to_bytes(32, "little") for _ in range(run)] for _ in range(2 * 65_536 // run)]
    events, started = 0, time.process_time()
    for number, hashes in enumerate(batches):
        # A full engine: every prompt that comes in pushes another one out.
        if number >= 200:
            exact.removed(batches[number - 200])
            events += run
        exact.stored(hashes, None, tokens, BLOCK_TOKENS, number + 1)
        events += run
    aims.append(Aim("block events a second of one core", events / (time.process_time() - started), at_least=200_000))
    return aims


def _fill_exact(index: BlockIndex, replicas: int, blocks: int, tokens: Sequence[int]) -> list[ExactBlocks]:
    held = [ExactBlocks(index, f"replica-{n}", blocks) for n in range(replicas)]
    run = len(tokens) // BLOCK_TOKENS
    for n, exact in enumerate(held):
        for prompt in range(blocks // run):
            first = (n * blocks + prompt * run + 1) * 0x9E3779B97F4A7C15
            hashes = [(first + i * 0x9E3779B97F4A7C15) % 2**64 for i in range(run)]
            exact.stored(hashes, None, tokens, BLOCK_TOKENS, first % 2**64)
    return held


def _fill_mirror(index: BlockIndex, replicas: int, blocks: int) -> list[MirrorBlocks]:
    held = [MirrorBlocks(index, f"replica-{n}", blocks) for n in range(replicas)]
    for n, mirror in enumerate(held):
        for prompt in range(2 * blocks // 256):
            mirror.used(block_keys(range(256), 1, root_key(f"{n}-{prompt}")))
    return held


def decision_aims(seed: int, replicas: int = 8, blocks: int = 62_500, rounds: int = 1000) -> list[Aim]:
    """CPU time from token ids to a ranking, with full caches. Every second prompt is cached, wholly or in part."""
    rng = random.Random(seed)
    index = BlockIndex()
    mirrors = _fill_mirror(index, replicas, blocks)
    rate = PrefillRate()
    loads = [ReplicaLoad(rate) for _ in mirrors]
    config, root = ReplicaConfig(), root_key("tenant")
    samples = []
    for number in tqdm(range(rounds), desc="decisions", unit="decision"):
        tokens = [rng.randrange(150_000) for _ in range(PROMPT_TOKENS)]
        if number % 2:
            known = block_keys(tokens, BLOCK_TOKENS, root)
            for mirror in rng.sample(mirrors, 3):
                mirror.used(known[: rng.randrange(len(known)) + 1])
        started = time.thread_time()
        keys = block_keys(tokens, BLOCK_TOKENS, root)
        held = index.match(keys)
        states = [
            load.state(mirror.replica_id, float(number), held[mirror.replica_id] * BLOCK_TOKENS, len(mirror))
            for load, mirror in zip(loads, mirrors, strict=True)
        ]
        ranked = rank_replicas(Prompt(PROMPT_TOKENS, None, number), states, config, 0.1, 0.5)
        samples.append(time.thread_time() - started)
        chosen = next(n for n, mirror in enumerate(mirrors) if mirror.replica_id == ranked[0].replica_id)
        loads[chosen].book(str(number), PROMPT_TOKENS, ranked[0].uncached_tokens, float(number))
        loads[chosen].prefilled(str(number), number + 0.1)
        loads[chosen].release(str(number), number + 0.2)
    p50_s, p99_s = np.quantile(samples, (0.5, 0.99))
    return [
        Aim("decision p50 at 4k tokens and 8 replicas, ms", float(p50_s) * 1000, at_most=0.3),
        Aim("decision p99 at 4k tokens and 8 replicas, ms", float(p99_s) * 1000, at_most=1.0),
    ]
