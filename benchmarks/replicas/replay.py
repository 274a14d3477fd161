"""Replay a trace over simulated replicas, once per routing policy, next to the ceilings no policy can pass.

The model of a replica: it prefills one prompt after the other at a fixed rate, in order of arrival. Cached tokens are
free. Its cache is an LRU of full blocks that holds a prompt from the moment it is routed there. Decoding takes a fixed
time per output token beside the prefill and slows nothing. All policies get the same replicas, arrivals and news.
With --ingress K the requests are dealt to K processes in turn. Each tokenizes one prompt at a time before it decides
and knows its own bookings at once and those of the others after a delay. TTFT counts from arrival all the same.
"""

import heapq
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.replicas.policies import POLICIES, RouterView
from benchmarks.replicas.trace import TraceRequest

FIRST_TOKEN, FINISHED, NEWS = range(3)


@dataclass(frozen=True, slots=True)
class Setup:
    """What the replicas and the gateway processes are like. Rates in tokens per second, times in seconds."""

    replicas: int = 4
    capacity_tokens: int = 1_000_000
    block_size_tokens: int = 512
    prefill_tokens_per_s: float = 20_000.0
    tpot_s: float = 0.02
    ingress: int = 1
    tokenize_tokens_per_s: float | None = None
    news_delay_s: float = 0.005
    seed: int = 0
    host_tokens: int = 0
    host_load_tokens_per_s: float = 200_000.0

    @property
    def capacity_blocks(self) -> int:
        """Full blocks in one replica's cache."""
        return self.capacity_tokens // self.block_size_tokens

    @property
    def host_blocks(self) -> int:
        """Full blocks in one replica's host memory."""
        return self.host_tokens // self.block_size_tokens


@dataclass(frozen=True, slots=True)
class Row:
    """One policy's outcome. Rates are shares of all input tokens. imbalance: most computed tokens over their mean.

    host_hit_rate: loaded from host memory instead of computed, on top of hit_rate.
    """

    policy: str
    replicas: int
    ingress: int
    hit_rate: float
    pooled_hit_share: float | None
    ttft_mean_s: float
    ttft_p50_s: float
    ttft_p90_s: float
    imbalance: float
    largest_share: float
    host_hit_rate: float = 0.0


class EngineCache:
    """The truth the policies guess at: an LRU of full blocks, a prompt's last block going out before its first."""

    def __init__(self, capacity_blocks: int | None) -> None:
        """capacity_blocks None: nothing is ever evicted."""
        self._capacity_blocks = capacity_blocks
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def use(self, keys: Sequence[int]) -> int:
        """Serve a prompt. Returns how many of its first blocks were there."""
        hits = next((depth for depth, key in enumerate(keys) if key not in self._blocks), len(keys))
        for key in reversed(keys):
            self._blocks[key] = None
            self._blocks.move_to_end(key)
        while self._capacity_blocks is not None and len(self._blocks) > self._capacity_blocks:
            self._blocks.popitem(last=False)
        return hits


def ceiling_hit_rate(requests: Sequence[TraceRequest], capacity_blocks: int | None, block_size_tokens: int) -> float:
    """Hit rate of one cache of that capacity that sees every request."""
    cache = EngineCache(capacity_blocks)
    hits = sum(min(cache.use(r.keys) * block_size_tokens, r.input_tokens - 1) for r in requests)
    return hits / sum(r.input_tokens for r in requests)


def decisions(requests: Sequence[TraceRequest], setup: Setup) -> list[tuple[float, int, int]]:
    """(when, place in the trace, gateway process) of every routing decision, in order of time."""
    free_at = [0.0] * setup.ingress
    planned = []
    for number, request in enumerate(requests):
        ingress = number % setup.ingress
        when = request.at_s
        if setup.tokenize_tokens_per_s is not None:
            when = max(when, free_at[ingress]) + request.input_tokens / setup.tokenize_tokens_per_s
            free_at[ingress] = when
        planned.append((when, number, ingress))
    return sorted(planned)


def simulate(
    requests: Sequence[TraceRequest],
    policy: str,
    setup: Setup,
    pooled_hit_rate: float | None = None,
    decided_s: list[float] | None = None,
) -> Row:
    """Replay the trace under one policy. decided_s: gets the CPU seconds of every choice, in order."""
    views = [
        RouterView(
            setup.replicas,
            setup.capacity_blocks,
            setup.block_size_tokens,
            setup.ingress == 1,
            setup.seed + n,
            setup.host_blocks,
        )
        for n in range(setup.ingress)
    ]
    policies = [POLICIES[policy](view) for view in views]
    caches = [EngineCache(setup.capacity_blocks) for _ in range(setup.replicas)]
    hosts = [EngineCache(setup.host_blocks) for _ in range(setup.replicas)]
    free_at = [0.0] * setup.replicas
    computed = [0] * setup.replicas
    routed = [0] * setup.replicas
    ttfts = []
    hit_tokens = host_hit_tokens = 0
    # (time, running number for equal times, kind, ingress told, request, replica, uncached tokens, decided at)
    events: list[tuple[float, int, int, int, int, int, int, float]] = []
    order = 0

    def announce(
        at_s: float, kind: int, number: int, owner: int, replica: int, uncached: int, decided_at: float
    ) -> None:
        nonlocal order
        for ingress in range(setup.ingress):
            if ingress != owner:
                heapq.heappush(
                    events, (at_s + setup.news_delay_s, order, kind, ingress, number, replica, uncached, decided_at)
                )
            elif kind != NEWS:
                heapq.heappush(events, (at_s, order, kind, ingress, number, replica, uncached, decided_at))
            order += 1

    for now, number, ingress in decisions(requests, setup):
        while events and events[0][0] <= now:
            at_s, _, kind, to, about, replica, uncached, decided_at = heapq.heappop(events)
            if kind == NEWS:
                work_s = views[to].booked(about, requests[about], replica, uncached, decided_at, at_s)
                views[to].unseen.booked_elsewhere(decided_at, work_s)
                policies[to].booked(about, requests[about], replica, uncached)
            elif kind == FIRST_TOKEN:
                views[to].prefilled(about, replica, at_s)
                policies[to].prefilled(about, replica)
            else:
                views[to].finished(about, requests[about], replica, at_s)
                policies[to].finished(about, requests[about], replica)
        request = requests[number]
        began_s = time.thread_time()
        chosen = policies[ingress].choose(number, request, now)
        if decided_s is not None:
            decided_s.append(time.thread_time() - began_s)
        held = views[ingress].cached_tokens(request)
        predicted = request.input_tokens - held[chosen] - views[ingress].host_tokens(request, held)[chosen]
        views[ingress].unseen.decided(now)
        views[ingress].booked(number, request, chosen, predicted, now, now)
        policies[ingress].booked(number, request, chosen, predicted)

        cached = min(caches[chosen].use(request.keys) * setup.block_size_tokens, request.input_tokens - 1)
        in_host = min(hosts[chosen].use(request.keys) * setup.block_size_tokens, request.input_tokens - 1)
        loaded = max(0, in_host - cached)
        uncached_tokens = request.input_tokens - cached - loaded
        work_s = uncached_tokens / setup.prefill_tokens_per_s + loaded / setup.host_load_tokens_per_s
        first_token_at = max(now, free_at[chosen]) + work_s
        free_at[chosen] = first_token_at
        ttfts.append(first_token_at - request.at_s)
        hit_tokens += cached
        host_hit_tokens += loaded
        computed[chosen] += uncached_tokens
        routed[chosen] += 1
        announce(now, NEWS, number, ingress, chosen, predicted, now)
        announce(first_token_at, FIRST_TOKEN, number, ingress, chosen, predicted, now)
        announce(
            first_token_at + request.output_tokens * setup.tpot_s, FINISHED, number, ingress, chosen, predicted, now
        )

    hit_rate = hit_tokens / sum(r.input_tokens for r in requests)
    return Row(
        policy=policy,
        replicas=setup.replicas,
        ingress=setup.ingress,
        hit_rate=hit_rate,
        pooled_hit_share=hit_rate / pooled_hit_rate if pooled_hit_rate else None,
        ttft_mean_s=float(np.mean(ttfts)),
        ttft_p50_s=float(np.quantile(ttfts, 0.5)),
        ttft_p90_s=float(np.quantile(ttfts, 0.9)),
        imbalance=max(computed) * setup.replicas / sum(computed),
        largest_share=max(routed) / len(requests),
        host_hit_rate=host_hit_tokens / sum(r.input_tokens for r in requests),
    )
