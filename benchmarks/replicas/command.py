"""`python -m benchmarks replicas`: replica routing on a replayed trace or on running engines."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.load.text_table import columns, number
from benchmarks.replicas.live import add_live_arguments, run_live
from benchmarks.replicas.policies import POLICIES
from benchmarks.replicas.replay import Row, Setup, ceiling_hit_rate, simulate
from benchmarks.replicas.trace import read_trace


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m benchmarks replicas`."""
    parser.add_argument("--trace", type=Path, help="requests in Mooncake's form, .jsonl or .jsonl.gz")
    parser.add_argument("--replicas", type=int, help="4 when replaying, 3 with --live")
    parser.add_argument("--capacity-tokens", type=int, default=1_000_000, help="KV cache of one replica (1,000,000)")
    parser.add_argument("--policy", default="all", choices=["all", *POLICIES])
    parser.add_argument("--ingress", type=int, default=1, help="gateway processes with router states of their own (1)")
    parser.add_argument("--speed", type=float, default=1.0, help="2: the trace's requests come twice as fast (1)")
    parser.add_argument("--limit", type=int, help="replay only the first requests of the trace")
    parser.add_argument("--prefill-tokens-per-s", type=float, default=20_000.0, help="of one replica (20,000)")
    parser.add_argument("--tpot-s", type=float, default=0.02, help="decode time per output token (0.02)")
    parser.add_argument("--block-size-tokens", type=int, default=512, help="tokens per hash_id of the trace (512)")
    parser.add_argument(
        "--news-delay-s", type=float, default=0.005, help="until the other gateway processes know (0.005)"
    )
    parser.add_argument(
        "--tokenize-tokens-per-s",
        type=float,
        default=1e6,
        help="of one gateway process (1e6). With only one, it is instant",
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
        from benchmarks.replicas.aims import measure_aims, print_aims  # noqa: PLC0415 - it replays through this module

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
        from benchmarks.replicas.mocker import print_references, references  # noqa: PLC0415 - it needs this module's rows

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
    """Print one line a policy and one line a ceiling."""
    cells = [
        [
            row.policy,
            number(row.hit_rate, 4),
            number(row.pooled_hit_share, 3),
            f"{row.ttft_mean_s:.3f} / {row.ttft_p50_s:.3f} / {row.ttft_p90_s:.3f}",
            number(row.imbalance, 3),
            number(row.host_hit_rate, 4),
        ]
        for row in rows
    ]
    limits = [[name, number(hit_rate, 4), "ceiling", "", "", ""] for name, hit_rate in ceilings.items()]
    print(columns(("policy", "hit rate", "of pooled", "TTFT mean/p50/p90 s", "imbalance", "from host"), cells + limits))


def plot(rows: Sequence[Row], pooled_hit_rate: float, path: Path) -> None:
    """Mean TTFT against hit rate, one point per policy. Needs matplotlib (the `train` extra)."""
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
