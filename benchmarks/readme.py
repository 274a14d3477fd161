"""`python -m benchmarks readme RESULT`: writes the tables of benchmarks/README.md from kept results.

They stand between two marks. A test compares them with the results they name, so that no figure is typed by hand.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.load.text_table import number, spread
from benchmarks.run.compare import read
from benchmarks.sections.vllm_bench import AGREES_WITHIN, OURS, RATES, SECONDS, THEIRS

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
README = Path("benchmarks/README.md")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `python -m benchmarks readme`."""
    parser.add_argument("results", type=Path, nargs="+", help="kept results, benchmarks/results/….json")
    parser.add_argument("--readme", type=Path, default=README, help=f"the file whose section is replaced ({README})")


def run(args: argparse.Namespace) -> int:
    """Replace the section; the last line is JSON with what was written where."""
    text = "\n\n".join(section(read(path), path.name) for path in args.results)
    args.readme.write_text(replaced(args.readme.read_text("utf-8"), text), "utf-8")
    print(json.dumps({"readme": str(args.readme), "results": [path.name for path in args.results]}))
    return 0


def replaced(text: str, new: str) -> str:
    """The text with everything between the marks replaced. Raises SystemExit when they are not there."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the file needs the lines {BEGIN} and {END} where the section belongs")
    return f"{before}{BEGIN}\n{new}\n{END}{after}"


def section(document: dict[str, Any], name: str) -> str:
    """The section's text."""
    card, sections = document["card"], document["sections"]
    machine = card["machine"]
    cards = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
    parts = [
        f"Measured ({', '.join(sections)}) at commit {card['commit']} on {machine['cores']} cores "
        f"({machine['processor']}, {cards}), load average {machine['load_average']:.1f} before it began; "
        f"{document['took_s'] / 60:.0f} minutes. Medians of rounds (smallest-largest); everything is in "
        f"[{name}](results/{name}).",
        *(ceiling(model, found) for model, found in document["ceiling"].items()),
    ]
    for part, write in PARTS.items():
        if part in sections:
            parts += [text for text in write(sections[part]) if text]
    if failed := document["failed"]:
        parts.append("Not measured in this run: " + "; ".join(f"{n} ({why})" for n, why in failed.items()))
    if not machine["gpus"]:
        parts.append("GPU rows are still to be measured: `make bench-gpu` measures the same where there is one.")
    return "\n\n".join(parts)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, empty without rows."""
    if not rows:
        return ""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def ceiling(model: str, found: dict[str, Any]) -> str:
    """The measured bounds in a sentence."""
    decode = ", ".join(f"{tps:,.0f} at {batch}" for batch, tps in found["decode_tps"].items())
    return (
        f"Ceiling of {model}: {found['bytes_per_s'] / 1e9:,.1f} GB/s and {found['flop_per_s'] / 1e9:,.0f} GFLOP/s "
        f"measured, so at most {decode} decoded tokens/s (by requests at a time) and {found['prefill_tps']:,.0f} "
        "prefilled."
    )


def engine(found: dict[str, Any]) -> Iterator[str]:
    """Through the stack over the same engine called directly."""
    rows = []
    figures = {row["row"]: row for row in found["rows"]}
    for row in found["rows"]:
        if "output_tps_ratio" not in row:
            continue
        direct = figures[f"{row['lab']}, {row['cell']}, direct"]
        through = figures[f"{row['lab']}, {row['cell']}, {row['arm']}"]
        rows.append(
            (
                f"{row['lab']}, {row['cell']}",
                row["arm"].removeprefix("through, "),
                spread(direct, "output_tps", 1),
                spread(through, "output_tps", 1),
                spread(row, "output_tps_ratio", 3),
                spread(row, "ttft_added_s", 0, 1e-3),
            )
        )
    head = ("engine, load", "through", "direct, tokens/s", "through, tokens/s", "ratio, same round", "TTFT added, ms")
    yield markdown(head, rows)


def peers(found: dict[str, Any]) -> Iterator[str]:
    """Gateways on the same engine."""
    over = {row["of"]: row for row in found["rows"] if "of" in row}
    rows = [
        (
            row["row"],
            number(row["single_p50_s"], 1, 1e-3),
            spread(over.get(row["row"], {}), "single_added_s", 1, 1e-3),
            spread(over.get(row["row"], {}), "ttft_added_s", 0, 1e-3),
            spread(over.get(row["row"], {}), "output_tps_ratio", 2),
        )
        for row in found["rows"]
        if "of" not in row
    ]
    head = ("gateway, small model", "1 token p50, ms", "added, ms", "TTFT added at 8, ms", "tokens/s of bare vLLM's")
    yield markdown(head, rows)
    yield "; ".join(f"{name} did not start: {reason}" for name, reason in found["not_started"].items())


def floor(found: dict[str, Any]) -> Iterator[str]:
    """What our code adds to Ray Serve."""
    rows = [
        (
            row["row"],
            spread(row, "single_added_s", 1, 1e-3),
            spread(row, "ttft_added_s", 1, 1e-3),
            spread(row, "throughput_ratio", 2),
        )
        for row in found["rows"]
        if "single_added_s" in row
    ]
    yield markdown(("no-op engines", "1 token, ms", "first of stream, ms", "streams/s at 16"), rows)


def client(found: dict[str, Any]) -> Iterator[str]:
    """Which figures another client confirms."""
    ratio = next(row for row in found["rows"] if row["row"] == f"{OURS} / {THEIRS}")
    names = (*SECONDS, *RATES)
    off = {name: ratio[name] for name in names if ratio[name] is None or abs(ratio[name] - 1) > AGREES_WITHIN}
    total = len(names)
    rest = "; off: " + ", ".join(f"{name} {number(value, 3)}" for name, value in off.items()) if off else ""
    yield (
        f"Another client (`vllm bench serve`) on the same load: {total - len(off)} of {total} figures of ours within "
        f"{AGREES_WITHIN:.0%} of its{rest}."
    )


def scale(found: dict[str, Any]) -> Iterator[str]:
    """Running sizes, the ingress alone, and the simulated ones."""
    sizes = [
        (row["row"], spread(row, "requests_rps", 1), spread(row, "ttft_p50_s", 0, 1e-3))
        for row in found["rows"]
        if "replicas" in row and "policy" not in row
    ]
    yield markdown(("running, engines of a set pace, 32 streams", "requests/s", "TTFT p50, ms"), sizes)
    levels = [
        (row["row"], spread(row, "requests_rps", 0), spread(row, "e2e_p50_s", 1, 1e-3))
        for row in found["rows"]
        if "at_a_time" in row
    ]
    yield markdown(("ingress alone", "requests/s", "p50, ms"), levels)
    simulated = [
        (
            f"{row['replicas']} replicas, {row['policy']}",
            number(row["arrivals_rps"], 1),
            number(row["hit_rate"], 3),
            spread(row, "ttft_mean_s", 3),
            f"{number(row['decision_p50_s'], 2, 1e-3)} / {number(row['decision_p99_s'], 2, 1e-3)}",
        )
        for row in found["rows"]
        if "policy" in row and row["replicas"] in (1, 4, 16, 64)
    ]
    yield markdown(
        ("simulated, equal load per replica", "requests/s", "hits", "TTFT mean, s", "choice p50 / p99, ms"), simulated
    )


def layers(found: dict[str, Any]) -> Iterator[str]:
    """The compounding table and its sentences."""
    rows = [
        (row["row"], spread(row, "usd", 3), spread(row, "throughput_rps"), spread(row, "accuracy"))
        for row in found["rows"]
    ]
    yield markdown(("layers, one more each", "dollars / 1,000", "requests/s", "right"), rows)
    yield "\n".join(f"- {claim['sentence']}" for claim in found.get("claims", []))


def workloads(found: dict[str, Any]) -> Iterator[str]:
    """Open loop."""
    rows = [
        (
            row["load"],
            row["arm"],
            number(row["rate_rps"], 1),
            spread(row, "ttft_p50_s", 0, 1e-3),
            number(row["ttft_p99_s"], 0, 1e-3),
            number(row["goodput_rps"]),
            number(row["hit_rate"]),
        )
        for row in found["rows"]
    ]
    head = ("load, open loop, small model", "arm", "begin/s", "TTFT p50, ms", "p99", "goodput/s", "hits")
    yield markdown(head, rows)


PARTS = {
    "engine": engine,
    "workloads": workloads,
    "peers": peers,
    "client": client,
    "floor": floor,
    "scale": scale,
    "layers": layers,
}
