"""Replay a trace over simulated replicas, once per routing policy, next to the ceilings no policy can pass.

The model of a replica: it prefills one prompt after the other at a fixed rate, in order of arrival; cached tokens are
free; its cache is an LRU of full blocks that holds a prompt from the moment it is routed there; decoding takes a fixed
time per output token beside the prefill and slows nothing. All policies get the same replicas, arrivals and news.
With --ingress K the requests are dealt to K processes in turn. Each tokenizes one prompt at a time before it decides
and knows its own bookings at once and those of the others after a delay; TTFT counts from arrival all the same.
"""

import argparse
import heapq
import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.replica_policies import POLICIES, RouterView
from benchmarks.replicas_live import add_live_arguments, run_live
from benchmarks.trace import TraceRequest, read_trace

FIRST_TOKEN, FINISHED, NEWS = range(3)


@dataclass(frozen=True, slots=True)
class Setup:
    """What the replicas and the ingress processes are like. Rates in tokens per second, times in seconds."""

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
    """One policy's outcome. Rates are shares of all input tokens; imbalance: most computed tokens over their mean.

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
        """Serve a prompt; returns how many of its first blocks were there."""
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
    """(when, place in the trace, ingress process) of every routing decision, in order of time."""
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m benchmarks replicas`."""
    parser.add_argument("--trace", type=Path, help="requests in Mooncake's form, .jsonl or .jsonl.gz")
    parser.add_argument("--replicas", type=int, help="4 when replaying, 3 with --live")
    parser.add_argument("--capacity-tokens", type=int, default=1_000_000, help="KV cache of one replica (1,000,000)")
    parser.add_argument("--policy", default="all", choices=["all", *POLICIES])
    parser.add_argument("--ingress", type=int, default=1, help="ingress processes with router states of their own (1)")
    parser.add_argument("--speed", type=float, default=1.0, help="2: the trace's requests come twice as fast (1)")
    parser.add_argument("--limit", type=int, help="replay only the first requests of the trace")
    parser.add_argument("--prefill-tokens-per-s", type=float, default=20_000.0, help="of one replica (20,000)")
    parser.add_argument("--tpot-s", type=float, default=0.02, help="decode time per output token (0.02)")
    parser.add_argument("--block-size-tokens", type=int, default=512, help="tokens per hash_id of the trace (512)")
    parser.add_argument("--news-delay-s", type=float, default=0.005, help="until the other ingresses know (0.005)")
    parser.add_argument(
        "--tokenize-tokens-per-s", type=float, default=1e6, help="of one ingress; instant when there is only one (1e6)"
    )
    parser.add_argument(
        "--host-tokens", type=int, default=0, help="KV cache of one replica in host memory, besides (0)"
    )
    parser.add_argument("--host-load-tokens-per-s", type=float, default=200_000.0, help="host memory to GPU (200,000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--aims", action="store_true", help="instead: one table of the routing aims, measured here")
    parser.add_argument("--mocker", type=Path, help="a Python that has ai-dynamo-runtime: also Dynamo's own mocker")
    parser.add_argument("--plot", type=Path, help="also draw TTFT against hits, one point per policy (PNG, SVG)")
    add_live_arguments(parser.add_argument_group("on running engines instead of a trace"))


def setup_of(args: argparse.Namespace) -> Setup:
    """The simulated tier that the options describe."""
    return Setup(
        replicas=args.replicas or 4,
        capacity_tokens=args.capacity_tokens,
        block_size_tokens=args.block_size_tokens,
        prefill_tokens_per_s=args.prefill_tokens_per_s,
        tpot_s=args.tpot_s,
        ingress=args.ingress,
        tokenize_tokens_per_s=None if args.ingress == 1 else args.tokenize_tokens_per_s,
        news_delay_s=args.news_delay_s,
        seed=args.seed,
        host_tokens=args.host_tokens,
        host_load_tokens_per_s=args.host_load_tokens_per_s,
    )


def run(args: argparse.Namespace) -> int:
    """Print card, table and JSON."""
    if args.live:
        return run_live(args)
    if args.trace is None:
        raise SystemExit("give a trace with --trace FILE, or --live to measure running engines")
    setup = setup_of(args)
    requests = read_trace(args.trace, setup.block_size_tokens, args.speed)[: args.limit]
    card = {"trace": args.trace.name, "requests": len(requests), "speed": args.speed, **asdict(setup)}
    print("replicas  " + "  ".join(f"{name}={value}" for name, value in card.items()))
    if args.aims:
        from benchmarks.replica_aims import measure_aims, print_aims  # noqa: PLC0415 - it replays through this module

        aims = measure_aims(requests, setup)
        print_aims(aims)
        print(json.dumps({"card": card, "aims": [asdict(aim) for aim in aims]}))
        return 0
    pooled = ceiling_hit_rate(requests, setup.replicas * setup.capacity_blocks, setup.block_size_tokens)
    infinite = ceiling_hit_rate(requests, None, setup.block_size_tokens)
    names = list(POLICIES) if args.policy == "all" else [args.policy]
    rows = [simulate(requests, name, setup, pooled) for name in tqdm(names, desc="policies", unit="replay")]
    print_rows(rows, {"one pooled LRU": pooled, "infinite cache": infinite})
    document: dict[str, Any] = {
        "card": card,
        "ceilings": {"pooled_lru_hit_rate": pooled, "infinite_hit_rate": infinite},
        "rows": [asdict(row) for row in rows],
    }
    if args.mocker:
        from benchmarks.replica_mocker import print_references, references  # noqa: PLC0415 - it needs this module's rows

        try:
            found = references(args.mocker, args.trace, args.limit, args.speed, setup, rows)
        except RuntimeError as error:
            raise SystemExit(str(error)) from error
        print_references(found)
        document["mocker"] = [asdict(reference) for reference in found]
    if args.plot:
        plot(rows, pooled, args.plot)
    print(json.dumps(document))
    return 0


def print_rows(rows: Sequence[Row], ceilings: dict[str, float]) -> None:
    """The table."""
    print(
        f"{'policy':<16}{'hit rate':>9}{'of pooled':>11}{'TTFT mean/p50/p90 s':>23}{'imbalance':>11}{'from host':>11}"
    )
    for row in rows:
        share = "-" if row.pooled_hit_share is None else f"{row.pooled_hit_share:.3f}"
        ttft = f"{row.ttft_mean_s:.3f} / {row.ttft_p50_s:.3f} / {row.ttft_p90_s:.3f}"
        tail = f"{row.imbalance:>11.3f}{row.host_hit_rate:>11.4f}"
        print(f"{row.policy:<16}{row.hit_rate:>9.4f}{share:>11}{ttft:>23}{tail}")
    for name, hit_rate in ceilings.items():
        print(f"{name:<16}{hit_rate:>9.4f}{'ceiling':>11}")


def plot(rows: Sequence[Row], pooled_hit_rate: float, path: Path) -> None:
    """Mean TTFT against hit rate, one point per policy; needs matplotlib (the `train` extra)."""
    import matplotlib as mpl  # noqa: PLC0415 - an optional dependency

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415 - likewise

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    middle = (min(row.hit_rate for row in rows) + pooled_hit_rate) / 2
    for place, row in enumerate(sorted(rows, key=lambda row: row.hit_rate)):
        axes.scatter(row.hit_rate, row.ttft_mean_s, color="tab:red" if row.policy == "kv_aware" else "tab:blue")
        # Labels point inwards, every second one below its point: near the ceiling the points crowd.
        right, below = row.hit_rate > middle, place % 2
        axes.annotate(
            row.policy,
            (row.hit_rate, row.ttft_mean_s),
            xytext=(-7 if right else 7, -9 if below else 3),
            textcoords="offset points",
            fontsize=9,
            ha="right" if right else "left",
        )
    axes.axvline(pooled_hit_rate, color="grey", linestyle="--", linewidth=1, label="hits of one pooled LRU")
    axes.legend(loc="lower left", fontsize=8)
    axes.set_xlabel("prefix cache hit rate (cached tokens / input tokens)")
    axes.set_ylabel("mean TTFT, s")
    axes.set_title(f"{rows[0].replicas} replicas, {rows[0].ingress} ingress: lower right is better")
    figure.savefig(path, dpi=150)
    plt.close(figure)
